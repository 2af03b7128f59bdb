"""Where the sources are that a firmware compiles beside an exported network."""

from __future__ import annotations

from pathlib import Path

from tfmix.errors import TfmixError

_PACKAGE = Path(__file__).resolve().parents[1]


def kernels_directory() -> Path:
    """Directory with the sources of the kernels: `CMakeLists.txt`, `include`, `src`, the bridge to
    TensorFlow Lite Micro in `tflm`, an example in `firmware`.

    What `export_c` writes is compiled with these, of the same version (docs/c-export.md). They are
    part of the wheel; in a checkout they are the checkout's own.

    Raises TfmixError where there are none: the installation is not whole.
    """
    for directory in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels"):
        if (directory / "include" / "tfmix" / "kernels.h").is_file():
            return directory
    raise TfmixError(
        f"no kernel sources in {_PACKAGE / 'kernels'} nor {_PACKAGE.parent / 'kernels'}: "
        "install tfmix again"
    )
