"""Data named on the command line: arrays in a file, a function, a folder of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfmix.errors import TfmixError

if TYPE_CHECKING:
    import numpy as np

DATA_HELP = """\
data:
  FILE.npz          arrays x (inputs) and, where labels are wanted, y
  MODULE:FUNCTION   a function of a Python module in this directory or installed; without arguments
                    it returns x, (x, y), a tf.data.Dataset or an iterable of batches
  FOLDER            images: one folder for each class, in alphabetical order, or images alone;
                    resized to the model's input, values as --scale says
"""

#: --scale: (factor, offset) of pixel values 0 ... 255.
SCALES = {"unit": (1 / 255, 0.0), "signed": (1 / 127.5, -1.0), "none": (1.0, 0.0)}
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_BATCH = 32


def add_data(parser: argparse.ArgumentParser, **options: str) -> None:
    """Options that take data, name -> help, and those that say how it is read."""
    parser.epilog = DATA_HELP
    group = parser.add_argument_group("data")
    for name, text in options.items():
        group.add_argument(f"--{name}", metavar="DATA", help=text)
    group.add_argument(
        "--scale",
        choices=SCALES,
        default="unit",
        help="of images in folders: unit is 0 to 1 (the default), signed is -1 to 1, "
        "none is 0 to 255",
    )
    if "train" in options:
        group.add_argument(
            "--batch-size", type=int, default=32, metavar="N", help="samples a batch (32)"
        )


def read_data(
    text: str | None,
    shape: Sequence[int],
    arguments: argparse.Namespace,
    *,
    train: bool = False,
    limit: int | None = None,
) -> Any:
    """What the library's functions take as data; None for None.

    shape: of one input of the network; train: a Dataset in a new order each epoch, where the data
    is a folder; limit: of the samples read from a folder.

    TfmixError where it cannot be read, naming it.
    """
    if text is None:
        return None
    path = Path(text)
    if path.is_dir():
        return _Folder(path, shape, SCALES[arguments.scale], getattr(arguments, "seed", 0)).read(
            arguments.batch_size if train else None, limit
        )
    if path.suffix == ".npz":
        return _read_npz(path)
    if ":" in text:
        return _call(text)
    raise TfmixError(f"data {text!r}: no such folder, not a .npz file and not MODULE:FUNCTION")


def _read_npz(path: Path) -> Any:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if "x" not in file or set(file) - {"x", "y"}:
                raise TfmixError(f"{path} holds arrays {sorted(file)}; x is needed, y is allowed")
            return (file["x"], file["y"]) if "y" in file else file["x"]
    except TfmixError:
        raise
    except OSError as error:
        raise TfmixError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise TfmixError(f"{path}: not a .npz file of numbers: {error}") from error


def _call(text: str) -> Any:
    """What MODULE:FUNCTION returns."""
    module, _, function = text.partition(":")
    sys.path.insert(0, "")  # as `python -m` has it
    try:
        data = getattr(import_module(module), function)()
        return list(data) if isinstance(data, Iterator) else data  # it is read more than once
    except TfmixError:
        raise
    except Exception as error:  # the user's own code
        raise TfmixError(f"data {text!r}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")


class _Folder:
    """Images in a folder, in an order that `seed` alone decides."""

    def __init__(self, path: Path, shape: Sequence[int], scale: tuple[float, float], seed: int):
        if len(shape) != 3 or shape[2] not in (1, 3, 4):
            raise TfmixError(f"{path}: images have 1, 3 or 4 channels; the model takes {shape}")
        import numpy as np

        self._shape, self._scale, self._seed = shape, scale, seed
        classes = sorted(child for child in path.iterdir() if child.is_dir())
        found = [
            (file, label)
            for label, folder in enumerate(classes or [path])
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found:
            raise TfmixError(f"{path}: no images; {', '.join(IMAGE_SUFFIXES)} are read")
        order = np.random.default_rng(seed).permutation(len(found))
        self._files = [str(found[i][0]) for i in order]
        self._labels = np.array([found[i][1] for i in order]) if classes else None

    def read(self, batch_size: int | None, limit: int | None) -> Any:
        """A Dataset of batches where a size is given, else arrays."""
        import numpy as np
        import tensorflow as tf

        if batch_size is not None:
            parts = (self._files, self._labels) if self._labels is not None else (self._files,)
            dataset = tf.data.Dataset.from_tensor_slices(parts)
            dataset = dataset.shuffle(len(self._files), seed=self._seed)
            return dataset.map(lambda file, *y: (self._image(tf, file), *y)).batch(batch_size)
        x = np.stack([self._checked_image(tf, file) for file in self._files[:limit]])
        return x if self._labels is None else (x, self._labels[:limit])

    def _image(self, tf: Any, file: Any) -> Any:
        """float32 [rows, columns, channels]"""
        rows, columns, channels = self._shape
        image = tf.io.decode_image(tf.io.read_file(file), channels, expand_animations=False)
        image = tf.image.resize(image, (rows, columns), antialias=True)
        return image * self._scale[0] + self._scale[1]

    def _checked_image(self, tf: Any, file: str) -> np.ndarray:
        try:
            return self._image(tf, file).numpy()
        except tf.errors.OpError as error:
            raise TfmixError(f"{file}: cannot be read as an image: {error.message}") from error
