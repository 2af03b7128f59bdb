"""C networks on a Cortex-M under QEMU. For the firmware demo, benchmarks and tests.

kernels = compile_kernels(M7, directory)
firmware = build_firmware(integer_model, kernels, M7, directory / "digits")
outcome = run_firmware(firmware, integer_model.quantize(x))
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from target import (
    BOARD_SOURCES,
    KERNEL_SOURCES,
    KERNELS,
    Board,
    command,
    compile_sources,
    link,
    run,
)

import tfmix
from tfmix.budget import Budget
from tfmix.integer import abi
from tfmix.integer.model import IntegerNetwork, IntegerNode
from tfmix.integer.schedule import schedule_of

SUPPORT = KERNELS / "firmware" / "network"
#: Room for what a budget does not count: code, and the stack with a few variables.
CODE_SIZE, STACK_SIZE, DATA_SIZE = 64 << 10, 2 << 10, 1 << 10
#: What the board has, for networks without a budget.
MODEL_SIZE = ARENA_SIZE = 2 << 20


@dataclass(frozen=True)
class Firmware:
    """A linked program. Bytes in its memory.

    model:    weights and parameters
    arena:    as planned
    kernels:  code of the kernels
    calls:    code of the network: init and invoke
    rest:     start-up, semihosting, C library
    variants: the kernel variants that are linked
    """

    elf: Path
    board: Board
    output_shape: tuple[int, ...]
    model: int
    arena: int
    kernels: int
    calls: int
    rest: int
    variants: tuple[str, ...]

    @property
    def code(self) -> int:
        return self.kernels + self.calls + self.rest


@dataclass(frozen=True)
class Outcome:
    """What the board has reported.

    outputs:      uint8 [n, *output_shape]
    instructions: of each invoke [n]
    layers:       instructions of each layer of the first image, where the firmware is a profile
    stack:        the most bytes in use
    """

    outputs: np.ndarray
    instructions: np.ndarray
    layers: tuple[int, ...]
    init_instructions: int
    stack: int


def compile_kernels(board: Board, directory: Path, flags: Sequence[str] = ()) -> list[Path]:
    """Objects of all kernels and of the board support, for any number of firmwares."""
    kernels = compile_sources(KERNEL_SOURCES, board, directory / "kernels", flags)
    return [*kernels, *compile_sources(BOARD_SOURCES, board, directory / "board")]


def build_firmware(
    model: tfmix.IntegerModel,
    kernels: Sequence[Path],
    board: Board,
    directory: Path,
    budget: Budget | None = None,
    *,
    profile: bool = False,
) -> Firmware:
    """Exports `model` to C and links it; RuntimeError where it exceeds the budget's FLASH or RAM.

    kernels: from compile_kernels, for the same board.
    profile: whether it reports each layer, which adds to the instructions of an inference.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _, source, _ = tfmix.export_c(model, directory, name="network")
    flags = [
        *("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", f"-I{directory}"),
        '-DNETWORK_CONSTANT_ATTRIBUTES=__attribute__((section(".model")))',
        '-DNETWORK_ARENA_ATTRIBUTES=__attribute__((section(".arena")))',
    ]
    if profile:
        flags += ["-include", str(SUPPORT / "profile.h")]
    objects = compile_sources([source, SUPPORT / "main.c"], board, directory, flags)
    sizes = {
        "MODEL_SIZE": (budget and budget.flash) or MODEL_SIZE,
        "ARENA_SIZE": (budget and budget.ram) or ARENA_SIZE,
        "CODE_SIZE": CODE_SIZE,
        "STACK_SIZE": STACK_SIZE,
        "DATA_SIZE": DATA_SIZE,
    }
    elf = directory / "network.elf"
    link([*objects, *kernels], board, elf, sizes=sizes, script=SUPPORT / "network.ld")
    sections = dict(re.findall(r"^(\.\w+) +(\d+)", command("arm-none-eabi-size", "-A", elf), re.M))
    code = _code_by_object(elf.with_suffix(".map"))
    in_kernels = sum(size for path, size in code.items() if path.parent == kernels[0].parent)
    calls = code.get(objects[0], 0)
    return Firmware(
        elf=elf,
        board=board,
        output_shape=model.output_shape,
        model=int(sections[".model"]),
        arena=int(sections[".arena"]),
        kernels=in_kernels,
        calls=calls,
        rest=int(sections[".text"]) + int(sections.get(".data", 0)) - in_kernels - calls,
        variants=_linked_variants(elf),
    )


def run_firmware(firmware: Firmware, q: np.ndarray, *, seconds: float = 600) -> Outcome:
    """Runs the network on q, uint8 [n, *input_shape]. RuntimeError where the program fails."""
    (firmware.elf.parent / "inputs.bin").write_bytes(q.tobytes())
    done = run(firmware.elf, firmware.board, seconds=seconds)
    lines = re.findall(r"^output (\d+) ([0-9a-f]+)$", done.text, re.M)
    if done.exit_code != 0 or len(lines) != len(q):
        raise RuntimeError(
            f"{firmware.elf}: exit code {done.exit_code}, {len(lines)} of {len(q)} outputs\n"
            f"{done.text[-500:]}"
        )
    outputs = np.frombuffer(bytes.fromhex("".join(text for _, text in lines)), np.uint8)
    return Outcome(
        outputs=outputs.reshape(len(q), *firmware.output_shape),
        instructions=np.array([int(count) for count, _ in lines]),
        layers=_layers(done.text),
        init_instructions=_number("init", done.text),
        stack=_number("stack", done.text),
    )


def macs(network: IntegerNetwork) -> int:
    """Multiply-accumulates of one inference, padding included."""
    return sum(map(node_macs, network.nodes))


def node_macs(node: IntegerNode) -> int:
    """Multiply-accumulates of one layer; 0 without weights."""
    if node.weights is None:
        return 0
    return math.prod(node.output_shape[:2]) * node.weights.values.size


def scratch(network: IntegerNetwork) -> int:
    """The most bytes of scratch any layer needs."""
    return max(step.scratch for step in schedule_of(network).steps)


# -- helpers ------------------------------------------------------------------------------------


def _number(what: str, text: str) -> int:
    return int(re.search(rf"^{what} (\d+)$", text, re.M).group(1))


def _layers(text: str) -> tuple[int, ...]:
    """Of the first image."""
    first = text.split("\noutput ")[0]
    return tuple(int(count) for count in re.findall(r"^layer \d+ (\d+)$", first, re.M))


def _code_by_object(map_file: Path) -> dict[Path, int]:
    """Bytes of code and constants, by object file, from a linker's map."""
    _, kept = map_file.read_text().split("Linker script and memory map")
    found: dict[Path, int] = {}
    for size, path in re.findall(
        r"^ \.(?:text|rodata)\S*\s+0x[0-9a-f]+\s+0x([0-9a-f]+) (\S+\.o)$", kept, re.M
    ):
        found[Path(path)] = found.get(Path(path), 0) + int(size, 16)
    return found


def _linked_variants(elf: Path) -> tuple[str, ...]:
    names = re.findall(r" T tfmix_(\w+)", command("arm-none-eabi-nm", elf))
    return tuple(sorted(set(names) & set(abi.all_variants())))
