"""benchmarks/inner_loops.py: what it takes for a loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from target import ToolMissing, tool

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from inner_loops import Loop, find_loops, model

NUMERIC = """
1:
  nop
1: @ inner-loop w8 4
  ldr r0, [r1], #4
  smlad r4, r0, r2, r4
  cmp r1, r3
  bne 1b
1:
  b 1b
"""

COMPILED = """
.L3:
  .loc 1 2
  ldr r0, [r1], #4  @ a word
.L4:
  /* inner-loop w4 2 */
  smlad r4, r0, r2, r4
  /* inner-loop w4 2 */
  smlad r4, r0, r3, r4
  cbz r0, .L5
  subs r5, r5, #1
  bhi.n .L4
.L5:
  bne .L3
"""


def test_hand_written_loop():
    (loop,) = find_loops(NUMERIC)
    code = ("ldr r0, [r1], #4", "smlad r4, r0, r2, r4", "cmp r1, r3", "bne 1b")
    assert loop == Loop("w8", 4, code)


def test_unrolled_loop_is_found_once_with_all_its_macs():
    (loop,) = find_loops(COMPILED)
    assert (loop.name, loop.macs, loop.instructions) == ("w4", 4, 5)
    assert loop.code[-1] == "bhi.n .L4"


def test_comment_outside_of_a_loop():
    with pytest.raises(ValueError, match="'@ inner-loop w2 8' is in no loop"):
        list(find_loops("  nop\n  @ inner-loop w2 8\n  bx lr\n"))


def test_model():
    try:
        tool("llvm-mca")
    except ToolMissing as missing:
        pytest.skip(str(missing))
    (loop,) = find_loops(NUMERIC)
    modelled = model(loop)
    # Three instructions that depend on each other and a branch, two at a time at best.
    assert 2 <= modelled.cycles <= 6
    assert modelled.cycles_per_mac == modelled.cycles / 4
