"""Custom options of TFMIX_STREAM, the operator that is a chain of layers; see docs/format.md.

The records are what runs. Behind them stands what `load` needs besides to have the nodes and inner
tensors again: widths, scales, ranks and names.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

import numpy as np

from tfmix.errors import FormatError, TfmixError
from tfmix.export.options import Header
from tfmix.integer import abi
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.stream import AVERAGE_POOL_ROWS, KINDS, StreamCall, StreamLayer
from tfmix.ir.stream import MOST_LAYERS

#: The kernel part of the operator's name; there are no variants.
STREAM = "stream"

#: layers, inputs, rows of input 0 that are kept: 0, for in a file it is whole
_COUNTS = struct.Struct("<3i")
_KERNELS = {kind: Kernel(name) for name, kind in KINDS.items()} | {
    AVERAGE_POOL_ROWS: Kernel.AVERAGE_POOL
}


@dataclass(frozen=True)
class LayerOptions:
    """One layer, as the options tell it.

    inputs:  numbers of tensors: first the operator's inputs, then the outputs of the layers
    columns: of the first input
    rank, scale: of the output; None of the last layer, where the header says them
    node, output: names, "" where the file has them elsewhere
    """

    kernel: Kernel
    variant: str
    params: bytes
    inputs: tuple[int, ...]
    rows: int
    band: int
    columns: int
    rank: int | None
    scale: float | None
    node: str
    output: str


def pack_stream(model: IntegerNetwork, call: StreamCall) -> bytes:
    """The options of a chain of `model`. TfmixError where a name cannot be written."""
    nodes = {node.name: node for node in model.nodes}
    layers = [nodes[c.node] for c in call.calls]
    outputs = [model.tensors[node.output] for node in layers]
    names = []
    for index, (c, node) in enumerate(zip(call.calls, layers, strict=True)):
        names.append("" if c.constants or node.name == node.output else node.name)
        names.append("" if index == len(layers) - 1 else node.output)
    for name in names:
        if "\0" in name:
            raise TfmixError(f"the name {name!r} holds a zero character")
    inner = outputs[:-1]
    return b"".join(
        (
            Header(len(outputs[-1].shape), outputs[-1].quant.scale).pack(),
            _COUNTS.pack(len(call.layers), len(call.inputs), 0),
            call.records,
            np.array([node.input_shapes[0][1] for node in layers], "<i4").tobytes(),
            np.array([tensor.quant.scale for tensor in inner], "<f4").tobytes(),
            bytes(len(tensor.shape) for tensor in inner),
            *(name.encode() + b"\0" for name in names),
        )
    )


def unpack_stream(rest: bytes) -> tuple[int, tuple[LayerOptions, ...]]:
    """Bytes after the header -> (inputs, layers). FormatError if they are none.

    What the layers say is for `lift` and `check_model` to judge, and for packing them again.
    """
    if len(rest) < _COUNTS.size:
        raise FormatError(f"{len(rest)} bytes of a chain, {_COUNTS.size} or more expected")
    layers, inputs, input_rows = _COUNTS.unpack_from(rest)
    if not 1 <= layers <= MOST_LAYERS or input_rows != 0:
        raise FormatError(
            f"a chain of {layers} layers with {input_rows} rows of its input: 1 to {MOST_LAYERS} "
            "and 0 expected"
        )
    at = _COUNTS.size + layers * ctypes.sizeof(StreamLayer)
    names_at = at + 4 * layers + 5 * (layers - 1)
    if len(rest) < names_at:
        raise FormatError(f"{len(rest)} bytes of {layers} layers, {names_at} or more expected")
    records = (StreamLayer * layers).from_buffer_copy(rest, _COUNTS.size)
    columns = np.frombuffer(rest, "<i4", layers, at).tolist()
    scales = np.frombuffer(rest, "<f4", layers - 1, at + 4 * layers).tolist()
    ranks = rest[names_at - (layers - 1) : names_at]
    try:
        names = rest[names_at:].decode().split("\0")
    except UnicodeDecodeError as error:
        raise FormatError(f"names {rest[names_at:][:40]!r} are not UTF-8") from error
    if len(names) != 2 * layers + 1 or names.pop():
        raise FormatError(f"{len(names)} names in a chain of {layers} layers")
    return inputs, tuple(
        _layer(
            record,
            columns[i],
            ranks[i] if i < layers - 1 else None,
            scales[i] if i < layers - 1 else None,
            names[2 * i],
            names[2 * i + 1],
        )
        for i, record in enumerate(records)
    )


def _layer(
    record: StreamLayer, columns: int, rank: int | None, scale: float | None, node: str, output: str
) -> LayerOptions:
    kernel = _KERNELS.get(record.kernel)
    if kernel is None:
        raise FormatError(f"kernel {record.kernel} of a layer, {sorted(_KERNELS)} expected")
    variant = abi.variant_name(
        kernel,
        input_bits=(record.input_bits, record.second_input_bits),
        output_bits=record.output_bits,
        weight_bits=record.weight_bits,
        per_channel=bool(record.per_channel),
    )
    abi.parse_variant(variant)
    inputs = (record.input, record.second_input) if kernel is Kernel.ADD else (record.input,)
    return LayerOptions(
        kernel=kernel,
        variant=variant,
        params=bytes(record.params)[: ctypes.sizeof(abi.PARAMS[kernel])],
        inputs=inputs,
        rows=record.rows,
        band=record.band,
        columns=columns,
        rank=rank,
        scale=scale,
        node=node,
        output=output,
    )
