"""An exported file in the TensorFlow Lite interpreter of a desktop, by way of a delegate.

kernels/host/delegate.cc is the delegate: the kernels that also run IntegerModel, in the same
library. It needs nothing of Python, so any program that loads TensorFlow Lite plug-ins can use it.
"""

from __future__ import annotations

import os
from typing import Any

from tfmix.export.load import load_network
from tfmix.integer.runtime import library_path


def delegate_path() -> str:
    """Path of the shared library that runs the custom operators of an exported file.

        delegate = tf.lite.experimental.load_delegate(tfmix.delegate_path())
        tf.lite.Interpreter("model.tflite", experimental_delegates=[delegate])

    ai-edge-litert's `load_delegate` and `Interpreter` take it likewise. With
    `experimental_preserve_all_tensors=True` every tensor can be read; those of 2 and 4 bits are
    packed (docs/format.md). TfmixError if the kernels have not been built.
    """
    return str(library_path())


def interpreter(path: str | os.PathLike[str], **options: Any) -> Any:
    """A tf.lite.Interpreter that runs what `tfmix.export` wrote to `path`, memory allocated.

    Args:
      path: of the file.
      options: further arguments of tf.lite.Interpreter.

    Raises FormatError where the file is not one of ours, whole.
    """
    import tensorflow as tf

    load_network(path)
    delegates = [*options.pop("experimental_delegates", ())]
    delegates.append(tf.lite.experimental.load_delegate(delegate_path()))
    result = tf.lite.Interpreter(os.fspath(path), experimental_delegates=delegates, **options)
    result.allocate_tensors()
    return result
