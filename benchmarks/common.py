"""What the benchmarks share: where the data is, how it is read."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path

import numpy as np
import tf_keras

#: Models and data that are not part of the repository, see its README.
DATA = Path(os.environ.get("TFMIX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def require_data() -> None:
    """Ends the program with a clear word where the data is absent."""
    if not DATA.is_dir():
        raise SystemExit(f"no data at {DATA}; set TFMIX_DATA to where it is")


def load_model(name: str) -> tf_keras.Model:
    return tf_keras.models.load_model(DATA / "models" / f"{name}.h5", compile=False)


def load_cifar10(part: str, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """part: "train" or "dev". Returns float32 images [n, 32, 32, 3] in 0..255, labels [n]."""
    spec = importlib.util.spec_from_file_location("cifar_jpeg", DATA / "cifar_jpeg.py")
    cifar_jpeg = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cifar_jpeg)
    images, labels = cifar_jpeg.load(DATA / f"cifar10_{part}.npz", n)
    return images.astype(np.float32), labels


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
