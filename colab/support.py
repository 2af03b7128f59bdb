"""What the notebooks share: small settings, data, tools of the target, tables.

Import it before TensorFlow: it asks TensorFlow to keep its notes to itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

tf.get_logger().setLevel("ERROR")  # in a notebook its warnings go to standard output

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("examples", "benchmarks", "tests")]

#: Whether to run on small settings, which show that everything runs and nothing else.
SMALL = os.environ.get("TFMIX_SMALL", "0") not in ("", "0")

#: Where the notebooks write, beside them.
OUTPUT = Path("output")

#: Debian packages of what notebook 4 builds and runs firmware with.
FIRMWARE_TOOLS = {
    "cmake": "cmake",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "arm-none-eabi-g++": "libstdc++-arm-none-eabi-newlib",
    "qemu-system-arm": "qemu-system-arm",
}

T = TypeVar("T")


def setting(full: T, small: T) -> T:
    """`full`, or `small` where the environment variable TFMIX_SMALL is set."""
    return small if SMALL else full


def cifar10(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of CIFAR-10, float32 [count, 32, 32, 3] in 0..255, and labels [count].

    part: "train" or "dev". From the project's archive where it is there, else the public set, which
    Keras downloads; its test part stands for "dev".
    """
    import common

    if (common.DATA / f"cifar10_{part}.npz").exists():
        return common.load_cifar10(part, count)
    import tf_keras

    train, test = tf_keras.datasets.cifar10.load_data()
    x, y = train if part == "train" else test
    return x[:count].astype(np.float32), y[:count, 0]


def require_firmware_tools() -> None:
    """Installs what is missing where this may (root on Debian, Ubuntu, Colab); else says what."""
    from target import ToolMissing, require

    try:
        require(*FIRMWARE_TOOLS)
    except ToolMissing:
        packages = " ".join(FIRMWARE_TOOLS.values()).split()
        if os.geteuid() != 0:
            raise SystemExit(f"please install: apt-get install {' '.join(packages)}") from None
        for words in (["update", "-qq"], ["install", "-y", "-qq", *packages]):
            subprocess.run(["apt-get", *words], check=True, stdout=subprocess.DEVNULL)
        require(*FIRMWARE_TOOLS)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints rows under a head, in columns: the first to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        print("  ".join(cells).rstrip())
