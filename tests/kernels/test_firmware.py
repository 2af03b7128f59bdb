"""The example firmware: configures, builds, and computes on QEMU's boards what is expected."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from integer_models import random_model
from target import BOARDS, KERNELS, Board, ToolMissing, command, run, tool

import tfmix

FIRMWARE = KERNELS / "firmware"
TOOLS = ("cmake", "arm-none-eabi-gcc", "arm-none-eabi-g++", "qemu-system-arm")
#: What docs/firmware.md says of a firmware without an interpreter.
MAX_STACK = 1024


@pytest.fixture(autouse=True)
def tools() -> None:
    for name in TOOLS:
        try:
            tool(name)
        except ToolMissing as error:
            pytest.skip(str(error))


def build(board: Board, directory: Path, *definitions: str) -> None:
    toolchain = FIRMWARE / "cmake" / f"{board.cpu}.cmake"
    words = ["-S", FIRMWARE, "-B", directory, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
    command("cmake", *words, *definitions)
    command("cmake", "--build", directory, "--parallel", 2)


def made_up_input(model: tfmix.IntegerModel) -> np.ndarray:
    """As kernels/firmware/app makes it."""
    count = int(np.prod(model.input_shape))
    return (31 * np.arange(count) + 7).astype(np.uint8).reshape(1, *model.input_shape)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_a_network_without_an_interpreter(board, tmp_path):
    model = tfmix.IntegerModel(random_model(3, nodes=8))
    tfmix.export_c(model, tmp_path / "network", name="network")
    build(board, tmp_path / "build", f"-DTFMIX_NETWORK={tmp_path / 'network'}")
    outcome = run(tmp_path / "build" / "network.elf", board)
    assert outcome.exit_code == 0, outcome.text
    pattern = (
        r"arena (\d+)\ninit \d+ instructions\ninvoke (\d+) instructions\n"
        r"stack (\d+)\noutput ([0-9a-f]+)\n"
    )
    arena, instructions, stack, output = re.fullmatch(pattern, outcome.text).groups()
    header = (tmp_path / "network" / "network.h").read_text()
    assert f"NETWORK_ARENA_BYTES {arena}\n" in header
    assert bytes.fromhex(output) == model.run(made_up_input(model)).tobytes()
    assert 0 < int(stack) < MAX_STACK
    assert int(instructions) > 1000


def test_a_file_with_tflm(tmp_path):
    """TFLM_INCLUDE_DIRS and TFLM_LIBRARY_ARM, a TFLM for the Cortex-M7, are the caller's."""
    includes, library = (os.environ.get(v) for v in ("TFLM_INCLUDE_DIRS", "TFLM_LIBRARY_ARM"))
    if not includes or not library:
        pytest.skip("TFLM_INCLUDE_DIRS and TFLM_LIBRARY_ARM are not set")
    board = BOARDS[1]
    model = tfmix.IntegerModel(random_model(3, nodes=8))
    tfmix.export(model, tmp_path / "model.tflite")
    tfmix.export_resolver(model, tmp_path / "model_ops.h")
    tfmix.export_c(model, tmp_path / "c", name="network")  # for its list of variants
    build(
        board,
        tmp_path / "build",
        f"-DTFMIX_MODEL={tmp_path}",
        f"-DTFMIX_VARIANTS={tmp_path / 'c' / 'network_variants.inc'}",
        f"-DTFLM_INCLUDE_DIRS={includes.replace(':', ';')}",
        f"-DTFLM_LIBRARY={library}",
    )
    outcome = run(tmp_path / "build" / "network_tflm.elf", board)
    assert outcome.exit_code == 0, outcome.text
    output = re.search(r"^output ([0-9a-f]+)$", outcome.text, re.M).group(1)
    assert bytes.fromhex(output) == model.run(made_up_input(model)).tobytes()
    used, given = map(int, re.search(r"^arena (\d+) of (\d+)$", outcome.text, re.M).groups())
    assert used <= given


def test_without_a_network(tmp_path):
    with pytest.raises(RuntimeError, match="set TFMIX_NETWORK or TFMIX_MODEL"):
        build(BOARDS[0], tmp_path)


def test_the_clock_of_a_real_board_compiles(tmp_path):
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O2", "-mthumb", "-c"]
    for source in ("cycles_dwt.c", "stack.c"):
        command(
            *("arm-none-eabi-gcc", *flags, *BOARDS[0].flags[:2], "-mfloat-abi=hard"),
            *(FIRMWARE / "app" / source, "-o", tmp_path / f"{source}.o"),
        )
