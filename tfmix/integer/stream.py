"""Chains of an `IntegerNetwork` in the terms of kernels/include/tfmix/stream.h.

As `KernelCall` is for a node, a `StreamCall` is what runs on the host, what is written to a file or
as C source, and what is compared when a file is read back. tfmix/ir/stream.py knows which rows are
there when; here they become records for the C API.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from tfmix.integer import abi
from tfmix.integer.lower import KernelCall, lower
from tfmix.integer.model import IntegerNetwork, IntegerNode, Kernel
from tfmix.integer.schedule import stream_of

_i32 = ctypes.c_int32

#: int32 of the largest parameter struct; shorter ones are filled up with zeros.
PARAM_FIELDS = 16


class StreamLayer(ctypes.LittleEndianStructure):
    """tfmix_stream_layer: one layer of a chain. Tensors are numbered: first the chain's inputs,
    then the outputs of its layers."""

    _pack_ = 1
    _fields_ = [
        ("kernel", _i32),
        ("input_bits", _i32),
        ("second_input_bits", _i32),
        ("weight_bits", _i32),
        ("output_bits", _i32),
        ("per_channel", _i32),
        ("rows", _i32),
        ("band", _i32),
        ("buffer_rows", _i32),
        ("input", _i32),
        ("second_input", _i32),
        ("params", _i32 * PARAM_FIELDS),
    ]


#: tfmix_stream_kind by the value of the kernel; AVERAGE_POOL_ROWS is no kernel of its own.
KINDS = {
    Kernel.CONV2D.value: 1,
    Kernel.DEPTHWISE_CONV2D.value: 2,
    Kernel.ADD.value: 3,
    Kernel.REQUANTIZE.value: 4,
    Kernel.AVERAGE_POOL.value: 5,
    Kernel.MAX_POOL.value: 6,
}
AVERAGE_POOL_ROWS = 7
#: The enumerators.
KIND_NAMES = {kind: f"TFMIX_STREAM_{name.upper()}" for name, kind in KINDS.items()} | {
    AVERAGE_POOL_ROWS: "TFMIX_STREAM_AVERAGE_POOL_ROWS"
}
_NO_INPUT = -1


@dataclass(frozen=True)
class StreamCall:
    """One chain, as the C API takes it.

    calls:      of its layers, as they would run one by one
    layers:     of its layers, tfmix_stream_layer
    inputs:     activation tensors that are whole; of the first, `input_rows` rows at a time where
                it comes row by row, 0 where not
    row_bytes:  of a row of the first input
    scratch:    bytes
    distance:   bytes that the output begins below the first input, at least, where they overlap
    """

    calls: tuple[KernelCall, ...]
    layers: tuple[StreamLayer, ...]
    inputs: tuple[str, ...]
    output: str
    input_rows: int
    row_bytes: int
    scratch: int
    distance: int

    @property
    def name(self) -> str:
        return f"{self.calls[0].node}..{self.calls[-1].node}"

    @property
    def records(self) -> bytes:
        return b"".join(map(bytes, self.layers))

    @property
    def constants(self) -> tuple[KernelCall, ...]:
        """The layers that have constants: their operands follow the inputs."""
        return tuple(call for call in self.calls if call.constants)

    @property
    def kernel_entries(self) -> tuple[str, ...]:
        """Of each layer, the macro that makes the entry of its kernel for tfmix_stream::kernels."""
        entries = []
        for layer, call in zip(self.layers, self.calls, strict=True):
            variant = abi.parse_variant(call.variant)
            rows = "_ROWS" if layer.kernel == AVERAGE_POOL_ROWS else ""
            name = f"TFMIX_STREAM_KERNEL_{variant.kernel.value.upper()}{rows}"
            entries.append(f"{name}({', '.join(variant.tags)})")
        return tuple(entries)


def lower_chain(
    model: IntegerNetwork,
    chain: tuple[str, ...],
    *,
    input_by_rows: bool = False,
    zero_constants: bool = False,
) -> StreamCall:
    """The chain of `model` whose nodes are called `chain`.

    input_by_rows: its first input is fed row by row; zero_constants: as for `lower`. TfmixError,
    naming the node or tensor, where the nodes make no chain.
    """
    named = {node.name: node for node in model.nodes}
    nodes = [named[name] for name in chain]
    stream, row_bytes = stream_of(model, nodes)
    calls = tuple(lower(node, model.tensors, zero_constants=zero_constants) for node in nodes)
    numbers = {tensor: i for i, tensor in enumerate((*stream.inputs, *stream.inner, stream.output))}
    sums = stream.layers[-1].sum_channels > 0
    layers = []
    for index, (node, call, rows) in enumerate(zip(nodes, calls, stream.layers, strict=True)):
        last = index == len(nodes) - 1
        bits = abi.parse_variant(call.variant)
        inputs = [numbers[tensor] for tensor in node.inputs]
        words = (_i32 * PARAM_FIELDS)()
        ctypes.memmove(words, call.params, len(call.params))
        layers.append(
            StreamLayer(
                kernel=AVERAGE_POOL_ROWS if last and sums else KINDS[node.kernel.value],
                input_bits=bits.a or 0,
                second_input_bits=bits.b or 0,
                weight_bits=bits.weight_bits or 0,
                output_bits=bits.output_bits or 0,
                per_channel=bool(bits.per_channel),
                rows=rows.output_rows,
                band=rows.band,
                buffer_rows=0 if last else stream.rows[node.output],
                input=inputs[0],
                second_input=inputs[1] if len(inputs) > 1 else _NO_INPUT,
                params=words,
            )
        )
    return StreamCall(
        calls=calls,
        layers=tuple(layers),
        inputs=stream.inputs,
        output=stream.output,
        input_rows=stream.rows[stream.inputs[0]] if input_by_rows else 0,
        row_bytes=row_bytes[stream.inputs[0]],
        scratch=stream.scratch(row_bytes, input_by_rows=input_by_rows),
        distance=stream.distance(row_bytes),
    )


def execution_order(model: IntegerNetwork) -> tuple[IntegerNode | tuple[str, ...], ...]:
    """What runs, one after the other: nodes by themselves, and chains by the names of theirs."""
    first = {chain[0]: chain for chain in model.chains}
    inside = {name for chain in model.chains for name in chain}
    return tuple(
        first.get(node.name, node)
        for node in model.nodes
        if node.name in first or node.name not in inside
    )
