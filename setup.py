"""Builds the kernels for this machine into tfmix/_kernels.so. All else is in pyproject.toml.

The library is loaded with ctypes, not imported: it holds the C API of kernels/include, the delegate
for TensorFlow Lite, and nothing of Python, so one build serves every version of Python.

The wheel also holds the sources that a firmware is built from, see tfmix.kernels_directory.
"""

from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel


#: What a firmware needs of kernels/.
FIRMWARE_SOURCES = ("CMakeLists.txt", "include", "src", "tflm", "firmware")


class BuildWithKernelSources(build_py):
    """Puts FIRMWARE_SOURCES beside the Python modules; an editable install has them already."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self._copy()

    def _copy(self) -> None:
        for name in FIRMWARE_SOURCES:
            root = Path("kernels", name)
            for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
                if path.is_file():
                    target = Path(self.build_lib, "tfmix", path)
                    self.mkpath(str(target.parent))
                    self.copy_file(str(path), str(target))


class BuildKernels(build_ext):
    """Builds a plain shared library where setuptools would build a Python module."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel with its platform, but with no version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


KERNELS = Extension(
    "tfmix._kernels",
    sources=sorted(glob("kernels/src/*.cc") + glob("kernels/host/*.cc")),
    depends=sorted(
        glob("kernels/src/*.h") + glob("kernels/host/*.h") + glob("kernels/include/tfmix/*")
    ),
    include_dirs=["kernels/include"],
    language="c++",
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-fno-exceptions",
        "-fno-rtti",
        "-fvisibility=hidden",
    ],
)

setup(
    ext_modules=[KERNELS],
    cmdclass={
        "build_ext": BuildKernels,
        "build_py": BuildWithKernelSources,
        "bdist_wheel": AnyPythonWheel,
    },
    # Not build/: on a file system that ignores case that would be Bazel's BUILD.
    options={"build": {"build_base": "build-python"}},
)
