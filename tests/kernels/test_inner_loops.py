"""benchmarks/inner_loops.py: what it takes for a loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from target import ToolMissing, tool

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from inner_loops import Loop, find_loops, model

DISASSEMBLY = """
k.o:     file format elf32-littlearm


Disassembly of section .text:

00000000 <outer>:
   0:\tmovs\tr0, #1
   2:\tldr.w\tr2, [r1], #4
   6:\tsmlad\tr4, ip, r2, r4
   a:\tsmlad\tr5, ip, r3, r5
   e:\tand.w\tip, ip, #983055\t@ 0xf000f
  12:\tsmlad\tr6, ip, r2, r6
  16:\tsmlabt\tr7, ip, r3, r7
  1a:\tmla\tr8, ip, r3, r8
  1e:\tcmp\tr1, r9
  20:\tbne.n\t2 <outer+0x2>
  22:\tsubs\tr0, #1
  24:\tbne.n\t0 <outer>
  26:\tbl\t0 <outer>
  2a:\tbx\tlr

Disassembly of section .text.few:

00000000 <few(int)>:
   0:\tsmlad\tr4, ip, r2, r4
   4:\tbne.n\t0 <few(int)>
"""


def test_innermost_loop_with_enough_products():
    (loop,) = find_loops(DISASSEMBLY)
    assert loop.name == "outer"
    assert loop.macs == 2 + 2 + 2 + 1 + 1
    assert loop.code[0] == "ldr r2, [r1], #4"
    assert loop.code[3] == "and ip, ip, #983055"
    assert loop.code[-1] == "bne ."


def test_packed_factors_count_twice():
    assert Loop("tfmix_conv2d_loop_w2a2_o8", ("smlad r4, ip, r2, r4",)).macs == 4


def test_model():
    try:
        tool("llvm-mca")
    except ToolMissing as missing:
        pytest.skip(str(missing))
    (loop,) = find_loops(DISASSEMBLY)
    modelled = model(loop)
    assert modelled.instructions == 9
    assert 5 <= modelled.cycles <= 12
    assert modelled.cycles_per_mac == pytest.approx(modelled.cycles / 8, abs=1e-2)
