"""Cycles of the kernels' inner loops on a Cortex-M7, as LLVM's machine code analyser models them.

A model, not a measurement: it knows which instructions issue together and how long results take,
and nothing of memory or of what branches cost.

The loops are found in the disassembly, whoever wrote them: a branch back whose body holds no other
branch and at least MIN_MACS products. Products are counted by instruction, two for an SMLAD; in a
function with w2a2 in its name a factor holds two values, and every product counts twice.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from target import command, tool

MIN_MACS = 8

_SECTION = re.compile(r"Disassembly of section (\S+):")
_SYMBOL = re.compile(r"([0-9a-f]+) <(.+)>:$")
_INSTRUCTION = re.compile(r"\s*([0-9a-f]+):\t(.+)")
_BRANCH = re.compile(r"(b(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?) ([0-9a-f]+)$")
_PRODUCTS = (
    (re.compile(r"sml[as](?:l?)d"), 2),
    (re.compile(r"smla[bt][bt]|mla\b"), 1),
)
#: Which encoding an instruction has makes no difference here, and llvm-mca 14 crashes on some .w.
_WIDTH = re.compile(r"^(\w+)\.[nw]\b")
#: What else leaves a straight line, cbz and cbnz forwards only.
_JUMP = re.compile(r"(?:blx?|bx|cbn?z|it[te]*) ")
_PACKED = re.compile("w2a2")
_ITERATIONS = 1000


@dataclass(frozen=True)
class Loop:
    """name: of the function it is in. code: instructions, the branch back last."""

    name: str
    code: tuple[str, ...]

    @property
    def macs(self) -> int:
        products = sum(
            count for line in self.code for pattern, count in _PRODUCTS if pattern.match(line)
        )
        return products * (2 if _PACKED.search(self.name) else 1)


@dataclass(frozen=True)
class ModelledLoop:
    name: str
    instructions: int
    macs: int
    cycles: float
    cycles_per_mac: float


def find_loops(disassembly: str) -> Iterator[Loop]:
    """The inner loops in the output of objdump, in the order of their addresses."""
    for section in re.split(r"(?=Disassembly of section)", disassembly):
        if _SECTION.match(section):
            yield from _loops_of_section(section.splitlines()[1:])


def _loops_of_section(lines: Iterable[str]) -> Iterator[Loop]:
    function, code = "", {}
    names = {}
    for line in lines:
        if symbol := _SYMBOL.match(line):
            function = symbol[2]
        elif instruction := _INSTRUCTION.match(line):
            address = int(instruction[1], 16)
            text = re.split(r"\s*[;@]|\s+<", instruction[2])[0]
            text = re.sub(r"\s+", " ", text).strip()
            code[address] = _WIDTH.sub(r"\1", text)
            names[address] = function
    for end, text in code.items():
        branch = _BRANCH.match(text)
        begin = int(branch[2], 16) if branch else end
        if begin >= end or begin not in code:
            continue
        body = [text for address, text in code.items() if begin <= address < end]
        if any(_BRANCH.match(text) or _JUMP.match(text) for text in body):
            continue
        # Where the branch goes depends on where the loop lies, and on nothing else.
        name = re.sub(r"^(?:void )?(.*?)\(.*$", r"\1", names[begin])
        loop = Loop(name, (*body, f"{branch[1]} ."))
        if loop.macs >= MIN_MACS:
            yield loop


def model(loop: Loop) -> ModelledLoop:
    """ToolMissing without llvm-mca, RuntimeError with what it says if it refuses the code."""
    done = subprocess.run(
        [
            tool("llvm-mca"),
            "-mtriple=thumbv7em-none-eabihf",
            "-mcpu=cortex-m7",
            f"-iterations={_ITERATIONS}",
        ],
        input="\n".join([".syntax unified", ".thumb", *loop.code, ""]),
        capture_output=True,
        text=True,
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if total is None:
        raise RuntimeError(f"llvm-mca failed on the loop in {loop.name}:\n{done.stderr}")
    cycles = int(total[1]) / _ITERATIONS
    per_mac = round(cycles / loop.macs, 4)
    return ModelledLoop(loop.name, len(loop.code), loop.macs, round(cycles, 2), per_mac)


def model_all(objects: Sequence[Path]) -> list[ModelledLoop]:
    """The loops of all objects, by name. Equal code counts once, under the first of its names."""
    tool("llvm-mca")
    loops: dict[tuple[str, ...], Loop] = {}
    for path in objects:
        disassembly = command("arm-none-eabi-objdump", "-d", "-C", "--no-show-raw-insn", path)
        for loop in find_loops(disassembly):
            loops.setdefault(loop.code, loop)
    modelled = {model(loop) for loop in loops.values()}
    return sorted(modelled, key=lambda m: (m.name, m.cycles_per_mac))
