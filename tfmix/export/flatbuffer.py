"""IntegerNetwork -> `.tflite`. docs/format.md documents the file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tfmix.errors import TfmixError
from tfmix.export import tflite
from tfmix.export.options import Header, op_name
from tfmix.export.shapes import packed_shape, shape_of_view
from tfmix.export.streams import STREAM, pack_stream
from tfmix.integer.lower import KernelCall, lower, plane_of
from tfmix.integer.model import IntegerNetwork, IntegerNode, IntegerTensor
from tfmix.integer.schedule import schedule_of
from tfmix.integer.stream import execution_order, lower_chain
from tfmix.integer.validate import check_model
from tfmix.ir.graph import FIXED_BITS
from tfmix.policy.cost.arena import plan

#: Metadata with the offset of every tensor in the arena, for TensorFlow Lite Micro's planner.
ARENA_METADATA = "OfflineMemoryAllocation"
#: Offset of what is not in the arena.
NOT_IN_ARENA = -1
#: Version of the metadata's layout, and subgraphs; the planner ignores both.
ARENA_HEADER = (1, 1)


def serialize(model: IntegerNetwork) -> bytes:
    """The file's bytes. TfmixError if the model is not valid, or says what a file cannot."""
    check_model(model)
    _check_expressible(model)
    return tflite.write(describe(model, plan(schedule_of(model)).offsets))


def file_size(model: IntegerNetwork) -> int:
    """len(serialize(model)), but cheap: neither packs weights nor plans the arena."""
    return len(tflite.write(describe(model, dict.fromkeys(model.tensors, 0), zero_constants=True)))


def export_network(model: IntegerNetwork, path: str | os.PathLike[str]) -> Path:
    """Writes `model` to `path`, whole or not at all; an older file of that name is replaced.

    Returns the path. TfmixError if the model cannot be written, or the file not.
    """
    path, content = Path(path), serialize(model)
    if not path.parent.is_dir():
        raise TfmixError(f"cannot write {path}: there is no directory {path.parent}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise TfmixError(f"cannot write {path}: {error.strerror}") from error
    return path


def describe(
    model: IntegerNetwork, offsets: Mapping[str, int], *, zero_constants: bool = False
) -> tflite.TfliteModel:
    """The model in terms of the schema.

    offsets: bytes from the start of the arena, by activation tensor.
    """
    tensors: list[tflite.Tensor] = []
    arena: list[int] = []
    index: dict[str, int] = {}

    def add(tensor: tflite.Tensor, offset: int) -> int:
        tensors.append(tensor)
        arena.append(offset)
        return len(tensors) - 1

    def add_activation(name: str) -> None:
        index[name] = add(_activation(model, name), offsets[name])

    add_activation(model.input)
    operators = []

    def add_operator(
        variant: str,
        calls: Iterable[KernelCall],
        inputs: Iterable[str],
        output: str,
        options: bytes,
    ) -> None:
        """calls: those whose constants follow the inputs."""
        indices = [index[name] for name in inputs]
        for call in calls:
            constant = tflite.Tensor(call.node, (len(call.constants),), call.constants)
            indices.append(add(constant, NOT_IN_ARENA))
        add_activation(output)
        operators.append(
            tflite.Operator(op_name(variant), tuple(indices), (index[output],), options)
        )

    for step in execution_order(model):
        if isinstance(step, tuple):
            chain = lower_chain(model, step, zero_constants=zero_constants)
            options = pack_stream(model, chain)
            add_operator(STREAM, chain.constants, chain.inputs, chain.output, options)
        else:
            call = lower(step, model.tensors, zero_constants=zero_constants)
            options = _options(step, call, model.tensors[step.output])
            weighted = [call] if call.constants else []
            add_operator(call.variant, weighted, call.inputs, call.output, options)
    return tflite.TfliteModel(
        tensors=tuple(tensors),
        operators=tuple(operators),
        inputs=(index[model.input],),
        outputs=(index[model.output],),
        metadata={ARENA_METADATA: arena_metadata(arena)},
    )


def arena_metadata(offsets: list[int]) -> bytes:
    """int32 [1, 1, n, offset of tensor 0, ..., offset of tensor n - 1]."""
    return np.array([*ARENA_HEADER, len(offsets), *offsets], "<i4").tobytes()


def _activation(model: IntegerNetwork, name: str) -> tflite.Tensor:
    """Input and output look to other tools as those of the Keras model do."""
    tensor = model.tensors[name]
    if name == model.input or name == model.output:
        shape = model.input_shape if name == model.input else model.output_shape
        quantization = tflite.Quantization(tensor.quant.scale, tensor.quant.zero_point)
        return tflite.Tensor(name, (1, *shape), quantization=quantization)
    return tflite.Tensor(name, packed_shape(tensor.shape, tensor.quant.bits))


def _options(node: IntegerNode, call: KernelCall, output: IntegerTensor) -> bytes:
    header = Header(len(output.shape), output.quant.scale, plane_of(node))
    name_known = call.constants or node.name == node.output
    return header.pack() + call.params + (b"" if name_known else node.name.encode())


def _check_expressible(model: IntegerNetwork) -> None:
    """TfmixError for what `IntegerNetwork` can say and the file cannot."""
    if model.tensors[model.input].shape != model.input_shape:
        raise TfmixError(
            f"input tensor {model.input!r} has shape {model.tensors[model.input].shape}, "
            f"{model.input_shape} expected"
        )
    for name in (model.input, model.output):
        bits = model.tensors[name].quant.bits
        if bits != FIXED_BITS:
            raise TfmixError(f"{name!r} has {bits} bits; input and output have {FIXED_BITS}")
    for name, tensor in model.tensors.items():
        scale = tensor.quant.scale
        if float(np.float32(scale)) != scale:
            raise TfmixError(f"tensor {name!r}: scale {scale!r} is not a float32")
    for node in model.nodes:
        shape = model.tensors[node.output].shape
        try:
            expected = shape_of_view(node.output_shape, len(shape))
        except TfmixError as error:
            raise TfmixError(f"tensor {node.output!r}: {error}") from error
        if shape != expected:
            raise TfmixError(
                f"tensor {node.output!r} has shape {shape}, but {node.name} writes "
                f"{node.output_shape}: {expected} expected"
            )
