"""Builds programs with TensorFlow Lite Micro, for this machine and for a Cortex-M7, and runs them.

TFLM is not part of this repository. It is the caller's, named by these variables (of make, CMake or
the environment):

    TFLM_INCLUDE_DIRS   directories with its headers and those of what it needs, ':' between them
    TFLM_LIBRARY        the library for this machine
    TFLM_LIBRARY_ARM    the library for a Cortex-M7 with hard float
    TFLM_LIBRARY_ARM_STRIPPED   the same with TF_LITE_STRIP_ERROR_STRINGS and NDEBUG
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from target import BOARD_SOURCES, KERNEL_SOURCES, KERNELS, M7, compile_sources, link, run
from tflm_cases import ModelCase, write_cases

BRIDGE_SOURCES = tuple(sorted((KERNELS / "tflm").glob("*.cc")))
HOST_KERNEL_SOURCES = tuple(path for path in KERNEL_SOURCES if path.suffix == ".cc")
TESTS = KERNELS / "tests" / "tflm"
#: TFLM's structs depend on it.
DEFINES = ("-DTF_LITE_STATIC_MEMORY",)
#: The programs have a DebugLog of their own; that of the library may come along.
LINK = ("-Wl,--allow-multiple-definition",)
#: Of the test on the board: its resolver holds all operators.
STACK_SIZE = 32 << 10


class TflmMissing(Exception):
    """A variable that is not given, by name."""


def variable(name: str) -> str:
    """Value of a variable. TflmMissing if it is not set."""
    value = os.environ.get(name, "")
    if not value:
        raise TflmMissing(f"{name} is not set")
    return value


def include_flags() -> list[str]:
    flags = list(DEFINES)
    for directory in variable("TFLM_INCLUDE_DIRS").split(":"):
        if not Path(directory).is_dir():
            raise TflmMissing(f"TFLM_INCLUDE_DIRS: there is no directory {directory}")
        flags += ["-isystem", directory]
    return flags


def has_header(name: str) -> bool:
    """Whether the TFLM that is given, if any, has a header of this name."""
    directories = os.environ.get("TFLM_INCLUDE_DIRS", "").split(":")
    return any((Path(directory) / name).is_file() for directory in directories)


def library(name: str) -> Path:
    path = Path(variable(name))
    if not path.is_file():
        raise TflmMissing(f"{name}: there is no file {path}")
    return path


@dataclass(frozen=True)
class Verdict:
    """result: "ok", "refused" or "differs". Bytes of the arena: in use, and the least that serve.

    log: what TFLM and the bridge said."""

    result: str
    arena: int | None
    needs: int | None
    log: str


@dataclass(frozen=True)
class Program:
    """kernels/tests/tflm/run_models.cc. on_board: a Cortex-M7 under QEMU, else this machine."""

    path: Path
    on_board: bool

    def __call__(self, cases: Sequence[ModelCase], seconds: float = 3600) -> dict[str, Verdict]:
        """Verdicts by name, in order. RuntimeError if the program breaks off."""
        write_cases(self.path.parent / "models.bin", cases)
        if self.on_board:
            outcome = run(self.path, M7, seconds=seconds)
            text, code = outcome.text, outcome.exit_code
        else:
            done = subprocess.run(
                [str(self.path)],
                cwd=self.path.parent,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
            text, code = done.stdout.decode(errors="replace"), done.returncode
        if code != 0 or not text.rstrip().endswith("end"):
            raise RuntimeError(f"{self.path.name} ended with {code}:\n{text[-2000:]}")
        return _verdicts(text)


_CASE = re.compile(r"^case (\S+)(?: arena (\d+) needs (\d+))? (ok|refused|differs)$", re.M)


def _verdicts(text: str) -> dict[str, Verdict]:
    verdicts, begin = {}, 0
    for match in _CASE.finditer(text):
        name, arena, needs, result = match.groups()
        log = text[begin : match.start()].strip()
        verdicts[name] = Verdict(result, arena and int(arena), needs and int(needs), log)
        begin = match.end()
    return verdicts


def host_program(
    directory: Path,
    flags: Sequence[str] = (),
    *,
    kernels: Iterable[Path] = HOST_KERNEL_SOURCES,
    compiler: str = "g++",
) -> Program:
    """Compiled into `directory`. TflmMissing if TFLM is not given."""
    tflm, includes = library("TFLM_LIBRARY"), include_flags()
    sources = [
        *kernels,
        *BRIDGE_SOURCES,
        TESTS / "run_models.cc",
        TESTS / "op_table.cc",
        TESTS / "machine_host.cc",
    ]
    directory.mkdir(parents=True, exist_ok=True)
    words = [compiler, "-std=c++17", "-O2", f"-I{KERNELS / 'include'}", *includes, *flags]

    def compile_one(source: Path) -> Path:
        target = directory / f"{source.name}.o"
        _run([*words, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    path = directory / "run_models"
    _run([compiler, *flags, *LINK, *map(str, objects), str(tflm), "-o", str(path)])
    return Program(path, on_board=False)


def board_program(directory: Path) -> Program:
    """The same for a Cortex-M7. TflmMissing or target.ToolMissing if something is not there."""
    tflm, includes = library("TFLM_LIBRARY_ARM"), include_flags()
    sources = [*KERNEL_SOURCES, *BRIDGE_SOURCES, *BOARD_SOURCES]
    sources += [TESTS / "run_models.cc", TESTS / "op_table.cc", TESTS / "machine_board.cc"]
    objects = compile_sources(sources, M7, directory, includes)
    elf = directory / "run_models.elf"
    link(objects, M7, elf, flags=[*LINK, tflm], sizes={"STACK_SIZE": STACK_SIZE})
    return Program(elf, on_board=True)


def _run(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed:\n{done.stderr[-4000:]}")
