"""Real models and data, which live outside the repository: ../shared/data, or TFMIX_DATA.

Whatever is asked of this module skips the test that asks where the files are not there.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

DIRECTORY = Path(
    os.environ.get("TFMIX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
)

#: Names of the five models.
MODELS = ("resnet8_cifar10_jpeg_ft", "kws_ref_model", "vww_96", "ad01", "str_ww_ref_model")


def path(name: str) -> Path:
    """A file that is there."""
    found = DIRECTORY / name
    if not found.exists():
        pytest.skip(f"no {name} in {DIRECTORY}: set TFMIX_DATA to the real models and data")
    return found


def model(name: str) -> tf_keras.Model:
    return tf_keras.models.load_model(path(f"models/{name}.h5"), compile=False)


@cache
def cifar10(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images of part "train" or "dev": float32 [count, 32, 32, 3] in 0..255, labels."""
    with np.load(path(f"cifar10_{part}.npz")) as archive:
        offsets, labels, data = archive["offsets"], archive["label"], archive["jpeg"].tobytes()
    images = [
        tf.io.decode_jpeg(data[start:end], channels=3, dct_method="INTEGER_ACCURATE")
        for start, end in zip(offsets[:count], offsets[1 : count + 1], strict=True)
    ]
    return np.stack(images).astype(np.float32), labels[:count]


@cache
def keyword_spotting() -> tuple[np.ndarray, np.ndarray]:
    """All 500 inputs, float32 [500, 49, 10, 1], and labels."""
    with np.load(path("kws_dev.npz")) as archive:
        scale, zero_point = np.float32(archive["scale"]), np.float32(archive["zero_point"])
        return (archive["inputs"] - zero_point) * scale, archive["label"]
