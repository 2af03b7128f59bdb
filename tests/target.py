"""Builds programs for a Cortex-M and runs them under QEMU. For tests and benchmarks alike.

    elf = build([*KERNEL_SOURCES, "my_test.cc"], M7, directory)
    print(run(elf, M7).text)

kernels/firmware/boards/mps2/ is what such a program stands on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
BOARD = KERNELS / "firmware" / "boards" / "mps2"
INCLUDES = (KERNELS / "include", BOARD)
BOARD_SOURCES = tuple(sorted(BOARD.glob("*.cc")))
KERNEL_SOURCES = tuple(
    sorted(path for path in (KERNELS / "src").rglob("*") if path.suffix in (".cc", ".c", ".S"))
)

#: What building and running take.
TOOLS = ("arm-none-eabi-g++", "arm-none-eabi-gcc", "qemu-system-arm")

#: Flags for everything that goes into a firmware, so that it links what it uses and no more.
FLAGS = (
    "-mthumb",
    "-mfloat-abi=hard",
    "-O3",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-exceptions",
    "-fno-rtti",
)
#: Forces the path that needs no DSP instructions.
PORTABLE = ("-DTFMIX_PORTABLE",)


class ToolMissing(Exception):
    """A program that is not installed, by name."""


def require(*names: str) -> None:
    """ToolMissing unless all of these programs are installed."""
    for name in names:
        tool(name)


@dataclass(frozen=True)
class Board:
    """A machine of QEMU and what to tell the compiler about it."""

    machine: str
    cpu: str
    fpu: str

    @property
    def flags(self) -> tuple[str, ...]:
        return (f"-mcpu={self.cpu}", f"-mfpu={self.fpu}", *FLAGS)


M4 = Board("mps2-an386", "cortex-m4", "fpv4-sp-d16")
M7 = Board("mps2-an500", "cortex-m7", "fpv5-d16")
BOARDS = (M4, M7)


@dataclass(frozen=True)
class Outcome:
    """What a program wrote and returned."""

    text: str
    exit_code: int


def tool(name: str) -> str:
    """Path of a program. ToolMissing if there is none."""
    path = shutil.which(name)
    if path is None:
        raise ToolMissing(f"{name} not found")
    return path


def command(*words: object) -> str:
    """Runs a tool. Returns its standard output; RuntimeError with what it said if it fails."""
    done = subprocess.run(
        [tool(str(words[0])), *map(str, words[1:])], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def compile_sources(
    sources: Iterable[Path], board: Board, directory: Path, flags: Sequence[str] = ()
) -> list[Path]:
    """An object file in `directory` for each source, C, C++ or assembly."""
    tool("arm-none-eabi-g++")
    directory.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{path}" for path in INCLUDES]

    def compile_one(source: Path) -> Path:
        target = directory / f"{source.name}.o"
        plus_plus = source.suffix == ".cc"
        compiler = "arm-none-eabi-g++" if plus_plus else "arm-none-eabi-gcc"
        language = ["-std=c++17"] if plus_plus else []
        unknown_to_c = () if plus_plus else ("-fno-rtti",)
        arguments = [flag for flag in board.flags if flag not in unknown_to_c]
        command(compiler, *arguments, *language, *includes, *flags, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, map(Path, sources)))


def link(
    objects: Iterable[Path],
    board: Board,
    elf: Path,
    *,
    sizes: dict[str, int] | None = None,
    flags: Sequence[str] = (),
    script: Path = BOARD / "mps2.ld",
) -> Path:
    """sizes: in bytes, as the linker script names them. Writes elf and its .map."""
    limits = [f"-Wl,--defsym,{name}={value}" for name, value in (sizes or {}).items()]
    command(
        "arm-none-eabi-g++",
        *board.flags,
        "-nostartfiles",
        "--specs=nano.specs",
        "-Wl,--gc-sections",
        f"-Wl,-Map,{elf.with_suffix('.map')}",
        *limits,
        "-T",
        script,
        *objects,
        *flags,
        "-o",
        elf,
    )
    return elf


def build(
    sources: Iterable[Path],
    board: Board,
    directory: Path,
    *,
    flags: Sequence[str] = (),
    objects: Sequence[Path] = (),
    sizes: dict[str, int] | None = None,
    name: str = "program",
) -> Path:
    """Compiles `sources` and the board support; links them and `objects` to directory/name.elf."""
    compiled = compile_sources([*sources, *BOARD_SOURCES], board, directory, flags)
    return link([*objects, *compiled], board, directory / f"{name}.elf", sizes=sizes)


def run(elf: Path, board: Board, *, seconds: float = 120) -> Outcome:
    """Runs a program in the directory it lies in; it may open files there by their names."""
    words = [
        tool("qemu-system-arm"),
        *("-M", board.machine),
        *("-display", "none", "-monitor", "none", "-serial", "none"),
        # Each instruction takes 2^6 ns: what the counter of board.h stands on.
        *("-icount", "shift=6,align=off,sleep=off"),
        *("-chardev", "stdio,id=host"),
        *("-semihosting-config", "enable=on,target=native,chardev=host"),
        *("-kernel", str(elf.resolve())),
    ]
    done = subprocess.run(
        words,
        cwd=elf.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return Outcome(done.stdout, done.returncode)


def text_size(elf: Path) -> int:
    """Bytes of flash: code and constants."""
    return int(command("arm-none-eabi-size", elf).splitlines()[1].split()[0])


class LinkedSizes:
    """Flash that kernels cost once they are linked.

    objects: those of the kernels. Sizes are differences to a program that uses none of them, in
    which the C library's memory functions are already there.
    """

    def __init__(self, objects: Sequence[Path], board: Board, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        source = directory / "empty.cc"
        source.write_text("int main() { return 0; }\n")
        self._objects = [*objects, *compile_sources([source, *BOARD_SOURCES], board, directory)]
        self._board = board
        self._directory = directory
        self._empty = text_size(self.program("empty", []))

    def program(self, name: str, functions: Iterable[str]) -> Path:
        """An ELF that keeps these functions of the C API."""
        keep = [f"-Wl,--undefined={function}" for function in functions]
        return link(self._objects, self._board, self._directory / f"{name}.elf", flags=keep)

    def __call__(self, *functions: str) -> int:
        return text_size(self.program("-".join(functions)[:100], functions)) - self._empty
