"""Every kernel variant on a Cortex-M4 and a Cortex-M7, as QEMU has them, against NumPy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from target import BOARDS, KERNELS, M7, Board, build, run
from target_cases import expected_output, planned_cases, write_cases

from tfmix.integer.abi import all_variants, parse_variant
from tfmix.integer.model import Kernel
from tfmix.ir.quant import max_level

RUNNER = sorted((KERNELS / "tests" / "target").glob("*.cc"))
pytestmark = pytest.mark.usefixtures("target_tools")


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """cases.bin, and how many cases it has of each variant."""
    path = tmp_path_factory.mktemp("cases") / "cases.bin"
    return path, write_cases(path)


@pytest.mark.parametrize("path", ["dsp", "portable"])
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_every_variant_is_exact(board: Board, path: str, kernel_objects, cases, tmp_path):
    file, counts = cases
    elf = build(RUNNER, board, tmp_path, objects=kernel_objects(board, path))
    (tmp_path / "cases.bin").symlink_to(file)
    outcome = run(elf, board)
    *lines, summary = outcome.text.splitlines()
    assert [line for line in lines if not line.endswith(" ok")] == []
    assert Counter(line.split()[0] for line in lines) == counts
    assert summary == f"{sum(counts.values())} cases, 0 failures"
    assert outcome.exit_code == 0
    assert set(counts) == set(all_variants()) and len(counts) == 253


GUARD_TEST = """
#include "board.h"
#include "guarded_memory.h"

using namespace tfmix::target;

int main() {
  ProtectGuards();
  volatile uint8_t* buffer = Place(kOutput, SIDE, 5);
  ACCESS;
  board_write(CanariesAlive(kOutput, const_cast<const uint8_t*>(buffer), 5) ? "alive" : "dead");
}
"""


@pytest.mark.parametrize(
    ("side", "access", "expected"),
    [
        ("kBegin", "buffer[0] = 1, buffer[4] = 1", "alive"),
        ("kBegin", "buffer[5] = 1", "dead"),
        ("kBegin", "(void)buffer[-1]", "protected address 0x"),
        ("kEnd", "buffer[0] = 1, buffer[4] = 1", "alive"),
        ("kEnd", "buffer[-1] = 1", "dead"),
        ("kEnd", "(void)buffer[5]", "protected address 0x"),
    ],
)
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_a_step_beyond_a_buffer_is_seen(board: Board, side, access, expected, tmp_path):
    """The test above is worth what its guards are worth."""
    source = tmp_path / "main.cc"
    source.write_text(GUARD_TEST.replace("SIDE", f"Side::{side}").replace("ACCESS", access))
    memory = KERNELS / "tests" / "target" / "guarded_memory.cc"
    elf = build([source, memory], board, tmp_path, flags=[f"-I{memory.parent}"])
    outcome = run(elf, board)
    assert expected in outcome.text
    assert outcome.exit_code == (99 if "protected" in expected else 0)


def test_the_counter_counts_instructions(tmp_path):
    source = tmp_path / "main.cc"
    source.write_text(
        """
        #include "board.h"
        int main() {
          for (uint32_t n = 1; n < 2000000; n *= 10) {
            const uint32_t begin = board_ticks();
            uint32_t left = n;
            __asm volatile("1: nop\\n nop\\n subs %0, #1\\n bne 1b" : "+r"(left) : : "cc");
            board_write_int(static_cast<int32_t>(board_instructions(begin, board_ticks()) - 4 * n));
            board_write(" ");
          }
          return 7;
        }
        """
    )
    outcome = run(build([source], M7, tmp_path), M7)
    assert outcome.exit_code == 7
    assert all(0 <= int(surplus) <= 6 for surplus in outcome.text.split())
    assert len(outcome.text.split()) == 7


@pytest.mark.parametrize("what", ["FLASH_SIZE", "RAM_SIZE"])
def test_what_does_not_fit_does_not_link(what, tmp_path):
    source = tmp_path / "main.cc"
    source.write_text("int buffer[1000] = {1};\nint main() { return buffer[0]; }\n")
    sizes = {"FLASH_SIZE": 16384, "RAM_SIZE": 16384, "STACK_SIZE": 1024}
    build([source], M7, tmp_path, sizes=sizes)
    with pytest.raises(RuntimeError, match="overflowed by"):
        build([source], M7, tmp_path, sizes=sizes | {what: 4096})


def test_static_constructors_are_refused(tmp_path):
    source = tmp_path / "main.cc"
    source.write_text("int now();\nint x = now();\nint now() { return 1; }\nint main() {}\n")
    with pytest.raises(RuntimeError, match="a static constructor has been linked"):
        build([source], M7, tmp_path, flags=["-O0"])


def test_the_plan_has_what_it_promises():
    """The places where mistakes hide are among the cases of each variant."""
    for variant in all_variants():
        seen = set()
        for _, case in planned_cases(variant):
            seen |= set(_traits(case))
        expected = {"single pixel", "odd channels", "unused bits"}
        v = parse_variant(variant)
        if v.weight_bits:
            expected |= {"saturated", "negative multiplier", "left shift", "weight zero point"}
            if v.kernel is not Kernel.DEPTHWISE_CONV2D:
                expected.add("long sum")
        if v.kernel in (Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D):
            expected |= {"asymmetric padding", "input zero point", "window beyond the image"}
        if (v.output_bits or v.a) == 8:
            expected -= {"unused bits"}
        assert expected <= seen, f"{variant}: {expected - seen}"


def _traits(case):
    node = case.node
    inputs, output = [case.tensors[name] for name in node.inputs], case.tensors[node.output]
    if node.input_shapes[0][:2] == (1, 1) or node.kernel in (
        Kernel.SOFTMAX,
        Kernel.FULLY_CONNECTED,
    ):
        yield "single pixel"
    if node.output_shape[2] % 2:
        yield "odd channels"
    y = expected_output(case)
    if np.any(y == max_level(output.quant.bits)) and np.any(y == 0):
        yield "saturated"
    if y.size * output.quant.bits % 8:
        yield "unused bits"
    if inputs[0].quant.zero_point:
        yield "input zero point"
    if node.window:
        top, bottom, left, right = node.window.padding
        if top != bottom or left != right:
            yield "asymmetric padding"
        if any(k > n for k, n in zip(node.window.kernel, node.input_shapes[0], strict=False)):
            yield "window beyond the image"
    w = node.weights
    if w is not None:
        if np.any(w.multiplier < 0):
            yield "negative multiplier"
        if w.left_shift:
            yield "left shift"
        if np.any(w.zero_point):
            yield "weight zero point"
        if w.values.size > 1000 * node.output_shape[2]:
            yield "long sum"
