"""Models with inputs and outputs for the tests in TensorFlow Lite Micro, and the file that
kernels/tests/tflm/run_models.cc reads."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kernel_cases import Case
from target_cases import expected_output

import tfmix
from tfmix.export import tflite
from tfmix.export.flatbuffer import serialize
from tfmix.export.options import Header, op_name
from tfmix.integer.lower import lower, plane_of
from tfmix.integer.packing import pack


@dataclass(frozen=True)
class ModelCase:
    """runs: (bytes of all inputs, bytes of the output) for each run; none for a file that is to be
    refused."""

    name: str
    content: bytes
    runs: tuple[tuple[bytes, bytes], ...] = ()


def write_cases(path: Path, cases: Sequence[ModelCase]) -> None:
    """The file, integers int32 and little-endian:

    case = name [64 bytes, zeroes at the end] | bytes of the model | number of runs
         | bytes of a run's inputs | of its output | model | (inputs | output)...
    """
    with path.open("wb") as file:
        for case in cases:
            sizes = [len(part) for part in case.runs[0]] if case.runs else [0, 0]
            name = case.name.encode()
            assert len(name) < 64
            file.write(struct.pack("<64s4i", name, len(case.content), len(case.runs), *sizes))
            file.write(case.content)
            for inputs, output in case.runs:
                file.write(inputs + output)


def of_model(name: str, model: tfmix.IntegerModel, runs: int = 2) -> ModelCase:
    """The exported file, and what the reference makes of random inputs."""
    q = np.random.default_rng(0).integers(0, 256, (runs, *model.input_shape), np.uint8)
    outputs = model.run(q, "reference")
    pairs = tuple((x.tobytes(), y.tobytes()) for x, y in zip(q, outputs, strict=True))
    return ModelCase(name, serialize(model.network), pairs)


def of_node(name: str, case: Case) -> ModelCase:
    """A file with this node alone, whose inputs are those of the network, packed."""
    call = lower(case.node, case.tensors)
    packed = [
        pack(values, case.tensors[tensor].quant.bits).tobytes()
        for tensor, values in zip(
            (*call.inputs, call.output), (*case.inputs, expected_output(case)), strict=True
        )
    ]
    return ModelCase(name, single(case, packed), ((b"".join(packed[:-1]), packed[-1]),))


def single(case: Case, packed: Sequence[bytes]) -> bytes:
    """packed: the bytes of the inputs and of the output. Without a memory plan."""
    call = lower(case.node, case.tensors)
    tensors = [tflite.Tensor(f"x{i}", (1, len(content))) for i, content in enumerate(packed[:-1])]
    inputs = tuple(range(len(tensors)))
    if call.constants:
        tensors.append(tflite.Tensor("constants", (len(call.constants),), call.constants))
    operator = tflite.Operator(
        custom_code=op_name(call.variant),
        inputs=tuple(range(len(tensors))),
        outputs=(len(tensors),),
        options=Header(3, 1.0, plane_of(case.node)).pack() + call.params,
    )
    tensors.append(tflite.Tensor("y", (1, len(packed[-1]))))
    return tflite.write(tflite.TfliteModel(tuple(tensors), (operator,), inputs, operator.outputs))
