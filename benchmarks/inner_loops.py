"""Cycles of the kernels' inner loops on a Cortex-M7, as LLVM's machine code analyser models them.

A model, not a measurement: it knows which instructions issue together and how long results take,
and nothing of memory. The loops are found by a comment inside of them, in an assembly source

    @ inner-loop <name> <MACs>

or, where the compiler makes the loop, in C++

    __asm volatile("/" "* inner-loop <name> <MACs> *" "/");

with the MACs that one pass of the comment stands for: a loop that the compiler unrolls holds the
comment several times. The loop is what lies between the closest label before the comment and the
branch back to it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from target import tool

_COMMENT = re.compile(r"inner-loop\s+(\S+)\s+(\d+)")
_LABEL = re.compile(r"\s*([.\w$]+):")
#: Conditional or not; cbz and cbnz only jump forwards.
_BRANCH = re.compile(r"\s*b(?:eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?(?:\.[nw])?\s+(\S+)")
_ITERATIONS = 1000


@dataclass(frozen=True)
class Loop:
    name: str
    macs: int
    code: tuple[str, ...]

    @property
    def instructions(self) -> int:
        return len(self.code)


@dataclass(frozen=True)
class ModelledLoop:
    name: str
    macs: int
    instructions: int
    cycles: float

    @property
    def cycles_per_mac(self) -> float:
        return self.cycles / self.macs


def find_loops(assembly: str) -> Iterator[Loop]:
    """Each innermost loop with the comment, once. ValueError for a comment outside of any loop."""
    lines = assembly.splitlines()
    seen = set()
    for index, line in enumerate(lines):
        comment = _COMMENT.search(line)
        if comment is None:
            continue
        bounds = _bounds(lines, index)
        if bounds is None:
            raise ValueError(f"'{line.strip()}' is in no loop")
        if bounds in seen:
            continue
        seen.add(bounds)
        body = lines[bounds[0] : bounds[1] + 1]
        macs = sum(int(found[2]) for found in map(_COMMENT.search, body) if found)
        yield Loop(comment[1], macs, tuple(_instructions(body)))


def _bounds(lines: list[str], inside: int) -> tuple[int, int] | None:
    """Line numbers of the label and of the branch back to it."""
    for begin in range(inside, -1, -1):
        label = _LABEL.match(lines[begin])
        if label is None:
            continue
        # A numeric label may exist many times; `1b` is the closest one before the branch.
        target = label[1] + "b" if label[1].isdigit() else label[1]
        for end in range(inside + 1, len(lines)):
            branch = _BRANCH.match(lines[end])
            if branch and branch[1] == target:
                return begin, end
            again = _LABEL.match(lines[end])
            if again and again[1] == label[1]:
                break
    return None


def _instructions(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        code = _LABEL.sub("", re.sub(r"@.*|/\*.*?\*/", "", line), count=1).strip()
        if code and not code.startswith((".", "#")):
            yield code


def model(loop: Loop) -> ModelledLoop:
    """ToolMissing without llvm-mca."""
    # The loop stands for itself: without a label its branch goes anywhere.
    code = [re.sub(r"^(b\w*(?:\.[nw])?)\s+\S+$", r"\1 .", line) for line in loop.code]
    done = subprocess.run(
        [
            tool("llvm-mca"),
            "-mtriple=thumbv7em-none-eabihf",
            "-mcpu=cortex-m7",
            f"-iterations={_ITERATIONS}",
        ],
        input="\n".join([".syntax unified", ".thumb", *code, ""]),
        capture_output=True,
        text=True,
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if total is None:
        raise RuntimeError(f"llvm-mca failed on the loop {loop.name}:\n{done.stderr}")
    return ModelledLoop(loop.name, loop.macs, loop.instructions, int(total[1]) / _ITERATIONS)


def model_all(assembly_files: Iterable[Path]) -> list[ModelledLoop]:
    """The loops of all files, by name; of equal names with equal cycles only one."""
    loops = {
        (loop.name, loop.code): loop
        for path in assembly_files
        for loop in find_loops(path.read_text())
    }
    modelled = {model(loop) for loop in loops.values()}
    return sorted(modelled, key=lambda m: (m.name, m.cycles_per_mac))
