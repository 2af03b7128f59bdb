"""Golden cases for the tests on the target: the plan, and the file that the program there reads.

The plan lists shapes by name; everything else about a case is drawn. docs/arithmetic.md in NumPy
(tfmix/integer/reference.py) says what must come out.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from kernel_cases import Case, Shape, random_case

from tfmix.integer.abi import all_variants, parse_variant
from tfmix.integer.lower import lower
from tfmix.integer.model import Kernel
from tfmix.integer.packing import pack
from tfmix.integer.reference import run_node

_FREE = {f"random {i}": Shape() for i in range(8)}

_WINDOWS = {
    "one pixel": Shape((1, 1), 1, kernel=(1, 1)),
    "one pixel in a large window": Shape((1, 1), 5, kernel=(3, 4), padding=(2, 1)),
    "3x3, same": Shape((5, 5), 8, kernel=(3, 3), padding=(1, 1), output=(5, 5)),
    "odd, asymmetric, stride 2": Shape(
        (7, 6), 3, kernel=(3, 3), strides=(2, 2), padding=(0, 1), output=(3, 3)
    ),
    "window larger than the image": Shape(
        (2, 2), 6, kernel=(4, 4), padding=(3, 2), output=(4, 3), largest=True
    ),
    "tall": Shape((23, 3), 4, kernel=(3, 3), padding=(1, 1), output=(23, 3)),
    "wide": Shape((3, 26), 2, kernel=(1, 3), padding=(0, 1), output=(3, 26)),
    "strides differ": Shape((6, 9), 4, kernel=(2, 3), strides=(1, 3), output=(5, 3)),
}

_POINTWISE = {
    "pointwise, whole blocks": Shape((4, 3), 32, 16, kernel=(1, 1), output=(4, 3)),
    "pointwise, odd pixels, tails": Shape((3, 3), 37, 7, kernel=(1, 1), output=(3, 3)),
    "pointwise, stride 2": Shape((5, 4), 24, 6, kernel=(1, 1), strides=(2, 2), output=(3, 2)),
    "pointwise, some columns only": Shape((4, 5), 8, 6, kernel=(1, 1), output=(3, 4)),
    "pointwise, largest sums": Shape((2, 3), 1040, 5, kernel=(1, 1), output=(2, 3), largest=True),
    "3x3, long sums": Shape(
        (3, 3), 70, 6, kernel=(3, 3), padding=(1, 1), output=(3, 3), largest=True
    ),
    "3x3, whole blocks": Shape((4, 4), 16, 8, kernel=(3, 3), padding=(1, 1), output=(4, 4)),
}

_DEPTH_MULTIPLIERS = {
    "depth multiplier 3": Shape((4, 5), 5, 15, kernel=(3, 3), padding=(1, 1), output=(4, 5)),
    "depth multiplier 4": Shape((3, 3), 2, 8, kernel=(2, 2), output=(2, 2)),
    "3x3, many channels": Shape((3, 4), 37, 37, kernel=(3, 3), padding=(1, 1), output=(3, 4)),
    "5x5": Shape((7, 7), 9, 9, kernel=(5, 5), padding=(2, 2), output=(7, 7)),
}

_FULLY_CONNECTED = {
    "one feature": Shape((1, 1), 1, 1),
    "whole blocks": Shape((1, 1), 128, 16),
    "tails": Shape((1, 1), 75, 7),
    "plane": Shape((4, 4), 5, 9),
    "largest sums": Shape((1, 1), 1040, 6, largest=True),
}

_ELEMENTWISE = {
    "one element": Shape((1, 1), 1),
    "whole words": Shape((4, 4), 16),
    "odd": Shape((3, 3), 5),
    "long": Shape((5, 7), 29),
    "largest": Shape((3, 5), 3, largest=True),
}

_FACTORS = {
    "a factor for each channel, whole words": Shape((5, 7), 16, same=False),
    "a factor for each channel, odd": Shape((3, 3), 7, same=False),
    "a factor for each channel, long": Shape((2, 3), 140, same=False),
    "a factor for each element": Shape((3, 5), 12, same=True),
    "a factor for each element, odd": Shape((3, 3), 5, same=True),
}

#: Shapes by name for each kernel.
PLAN: dict[Kernel, dict[str, Shape]] = {
    Kernel.CONV2D: _WINDOWS | _POINTWISE | _FREE,
    Kernel.DEPTHWISE_CONV2D: _WINDOWS | _DEPTH_MULTIPLIERS | _FREE,
    Kernel.FULLY_CONNECTED: _FULLY_CONNECTED | _FREE,
    Kernel.ADD: _ELEMENTWISE | _FREE,
    Kernel.MULTIPLY: _ELEMENTWISE | _FACTORS | _FREE,
    Kernel.CONCATENATE: _ELEMENTWISE | _FREE,
    Kernel.REQUANTIZE: _ELEMENTWISE | _FREE,
    Kernel.LOOKUP: _ELEMENTWISE | _FREE,
    Kernel.AVERAGE_POOL: _WINDOWS | _FREE,
    Kernel.MAX_POOL: _WINDOWS | _FREE,
    Kernel.PAD: _ELEMENTWISE | _FREE,
    Kernel.SOFTMAX: {"one class": Shape(channels=1), "ten": Shape(channels=10)} | _FREE,
}


def planned_cases(variant: str) -> Iterator[tuple[str, Case]]:
    """(name of the shape, case) for each shape of the plan, always the same."""
    for index, (name, shape) in enumerate(PLAN[parse_variant(variant).kernel].items()):
        rng = np.random.default_rng((zlib.crc32(variant.encode()), index))
        yield name, random_case(variant, rng, shape)


def write_cases(path: Path, variants: tuple[str, ...] = all_variants()) -> dict[str, int]:
    """Writes all planned cases. Returns how many there are of each variant.

    The file, all integers int32 and little-endian:

        case     = name of the variant [40 bytes, zeroes at the end] | inputs | part...
        part     = size in bytes | bytes, zeroes up to a multiple of 4

    The parts are the parameters, each input, the constants and the expected output.
    """
    counts = {}
    with path.open("wb") as file:
        for variant in variants:
            counts[variant] = 0
            for _, case in planned_cases(variant):
                file.write(encode_case(variant, case))
                counts[variant] += 1
    return counts


def expected_output(case: Case) -> np.ndarray:
    """uint8, unpacked."""
    batch = {name: values[None] for name, values in zip(case.node.inputs, case.inputs, strict=True)}
    return run_node(case.node, batch, case.tensors)[0]


def encode_case(variant: str, case: Case) -> bytes:
    """The case as `write_cases` writes it."""
    call = lower(case.node, case.tensors)
    assert call.variant == variant
    tensors = [case.tensors[name] for name in (*call.inputs, call.output)]
    *inputs, output = (
        pack(values, tensor.quant.bits).tobytes()
        for values, tensor in zip((*case.inputs, expected_output(case)), tensors, strict=True)
    )
    parts = (call.params, *inputs, call.constants, output)
    head = struct.pack("<40si", variant.encode(), len(inputs))
    return head + b"".join(
        struct.pack("<i", len(part)) + part + bytes(-len(part) % 4) for part in parts
    )
