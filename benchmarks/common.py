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


def load_cifar10(part: str | Path, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """part: "train", "dev", or the path of an archive like theirs. Returns float32 images
    [n, 32, 32, 3] in 0..255, labels [n]."""
    spec = importlib.util.spec_from_file_location("cifar_jpeg", DATA / "cifar_jpeg.py")
    cifar_jpeg = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cifar_jpeg)
    path = part if isinstance(part, Path) else DATA / f"cifar10_{part}.npz"
    images, labels = cifar_jpeg.load(path, n)
    return images.astype(np.float32), labels


def load_keyword_spotting() -> tuple[np.ndarray, np.ndarray]:
    """All 500 inputs, float32 [500, 49, 10, 1], and labels."""
    with np.load(DATA / "kws_dev.npz") as archive:
        scale, zero_point = np.float32(archive["scale"]), np.float32(archive["zero_point"])
        return (archive["inputs"] - zero_point) * scale, archive["label"]


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
