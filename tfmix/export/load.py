"""`.tflite` -> IntegerNetwork: the inverse of `export_network`, for files nobody can vouch for.

Two gates: the bytes must be the flatbuffer they claim to be (`tflite.read`), and the model they
describe must be one that the kernels can run blind (`check_model`). Between them every fact that
the file holds twice is compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tfmix.errors import FormatError, TfmixError
from tfmix.export import tflite
from tfmix.export.flatbuffer import ARENA_METADATA, NOT_IN_ARENA
from tfmix.export.options import OP_PREFIX, Header, op_name, parse_op_name, unpack
from tfmix.export.shapes import packed_shape, shape_of_view
from tfmix.export.streams import STREAM, LayerOptions, pack_stream, unpack_stream
from tfmix.integer import abi
from tfmix.integer.lower import (
    PLANELESS_KERNELS,
    KernelCall,
    lift,
    lower,
    output_quant,
    params_size,
)
from tfmix.integer.model import (
    TABLE_KERNELS,
    WEIGHTED_KERNELS,
    IntegerNetwork,
    IntegerNode,
    IntegerTensor,
    Kernel,
)
from tfmix.integer.stream import lower_chain
from tfmix.integer.validate import check_model
from tfmix.ir.graph import FIXED_BITS
from tfmix.ir.quant import QuantParams
from tfmix.policy.cost.arena import ALIGNMENT


def load_network(path: str | os.PathLike[str]) -> IntegerNetwork:
    """The model that `export_network` wrote to `path`.

    FormatError, naming the file, what was found and what was expected, if it cannot be read, is
    truncated, damaged, foreign, or of a newer format version.
    """
    try:
        return deserialize(Path(path).read_bytes())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    except TfmixError as error:
        raise FormatError(f"{path}: {error}") from error


def deserialize(data: bytes) -> IntegerNetwork:
    """Inverse of `serialize`. TfmixError if `data` is no such file."""
    _check_ours(tflite.operator_names(data))
    file = tflite.read(data)
    _check_tensors(file)
    _check_arena(file)
    return _Loader(file).model()


def _check_ours(operator_names: tuple[str, ...]) -> None:
    """First of all: a file of somebody else may be sound, and deserves to hear what it is not."""
    foreign = sorted(name for name in operator_names if not name.startswith(OP_PREFIX))
    if foreign or not operator_names:
        found = ", ".join(foreign[:5]) or "none"
        raise FormatError(f"not written by tfmix: operators {found}; {OP_PREFIX}... expected")


def _check_tensors(file: tflite.TfliteModel) -> None:
    for what, indices in (("inputs", file.inputs), ("outputs", file.outputs)):
        if len(indices) != 1:
            raise FormatError(f"{len(indices)} {what}, 1 expected")
        if not 0 <= indices[0] < len(file.tensors):
            raise FormatError(f"{what}: tensor {indices[0]}, {_range(file)} expected")
    for tensor in file.tensors:
        if tensor.type != tflite.UINT8:
            raise FormatError(
                f"tensor {tensor.name!r} is of TFLite type {tensor.type}, "
                f"{tflite.UINT8} (uint8) expected"
            )


def _range(file: tflite.TfliteModel) -> str:
    return f"0 to {len(file.tensors) - 1}"


def _check_arena(file: tflite.TfliteModel) -> None:
    """The memory plan has an aligned place for every activation, and none for the constants."""
    raw = file.metadata.get(ARENA_METADATA)
    if raw is None:
        raise FormatError(f"no metadata {ARENA_METADATA!r}")
    numbers = np.frombuffer(raw[: len(raw) // 4 * 4], "<i4").tolist()
    offsets = numbers[3:]
    if len(raw) % 4 or len(numbers) < 3 or not numbers[2] == len(offsets) == len(file.tensors):
        raise FormatError(
            f"{ARENA_METADATA} of {len(raw)} bytes does not list {len(file.tensors)} tensors"
        )
    for tensor, offset in zip(file.tensors, offsets, strict=True):
        if tensor.data is not None:
            valid = offset == NOT_IN_ARENA
        else:
            valid = offset >= 0 and offset % ALIGNMENT == 0
        if not valid:
            raise FormatError(f"{ARENA_METADATA}: tensor {tensor.name!r} at offset {offset}")


class _Loader:
    """Rebuilds tensors in the order in which operators write them."""

    def __init__(self, file: tflite.TfliteModel):
        self._file = file
        self._names: dict[int, str] = {}  # activations defined so far, by index
        self._tensors: dict[str, IntegerTensor] = {}
        self._calls: list[KernelCall] = []
        self._chains: list[tuple[str, ...]] = []
        self._chain_options: list[bytes] = []
        self._bands: dict[str, int] = {}

    def model(self) -> IntegerNetwork:
        file = self._file
        self._define_input(file.inputs[0])
        nodes: list[IntegerNode] = []
        for position, operator in enumerate(file.operators):
            try:
                if operator.custom_code == op_name(STREAM):
                    nodes += self._chain(operator)
                else:
                    nodes.append(self._node(operator))
            except TfmixError as error:
                raise FormatError(f"operator {position}: {error}") from error
        output = self._activation(file.outputs[0])
        model = IntegerNetwork(
            input=self._names[file.inputs[0]],
            output=output,
            input_shape=file.tensors[file.inputs[0]].shape[1:],
            output_shape=file.tensors[file.outputs[0]].shape[1:],
            tensors=self._tensors,
            nodes=tuple(nodes),
            chains=tuple(self._chains),
            bands=self._bands,
        )
        check_model(model)
        self._check_duplicates(model)
        return model

    def _define_input(self, index: int) -> None:
        raw = self._raw(index)
        if raw.data is not None or raw.quantization is None or raw.shape[:1] != (1,):
            raise FormatError(
                f"input {raw.name!r}, shape {raw.shape}: an activation of batch 1 with a scale "
                "and a zero point expected"
            )
        quant = QuantParams(raw.quantization.scale, raw.quantization.zero_point, FIXED_BITS)
        self._define(index, IntegerTensor(raw.name, raw.shape[1:], quant))

    def _node(self, operator: tflite.Operator) -> IntegerNode:
        variant_name = parse_op_name(operator.custom_code)
        variant = abi.parse_variant(variant_name)
        header, rest = unpack(operator.options)
        params, node_name = self._split(variant.kernel, rest)
        if len(operator.outputs) != 1:
            raise FormatError(f"{len(operator.outputs)} outputs, 1 expected")
        output = self._raw(operator.outputs[0])

        inputs, constants = operator.inputs, b""
        node_name = node_name or output.name
        if variant.kernel in WEIGHTED_KERNELS | TABLE_KERNELS:
            if not inputs:
                raise FormatError("no inputs")
            node_name, constants = self._constants(inputs[-1])
            inputs = inputs[:-1]
        if not inputs:
            raise FormatError("no inputs")
        names = tuple(self._activation(index) for index in inputs)
        call = KernelCall(
            node=node_name,
            variant=variant_name,
            kernel=variant.kernel,
            params=params,
            constants=constants,
            inputs=names,
            output=output.name,
        )
        node = lift(call, header.plane)
        self._define_output(operator.outputs[0], node, call, header)
        self._calls.append(call)
        return node

    def _constants(self, index: int) -> tuple[str, bytes]:
        """Name and content of a constant tensor."""
        constant = self._raw(index)
        if constant.data is None or constant.shape != (len(constant.data),):
            raise FormatError(
                f"constants {constant.name!r} of shape {constant.shape} and "
                f"{len(constant.data or b'')} bytes"
            )
        return constant.name, constant.data

    def _chain(self, operator: tflite.Operator) -> list[IntegerNode]:
        """The layers of TFMIX_STREAM."""
        header, rest = unpack(operator.options)
        count, layers = unpack_stream(rest)
        if len(operator.outputs) != 1:
            raise FormatError(f"{len(operator.outputs)} outputs, 1 expected")
        if not 1 <= count <= len(operator.inputs):
            raise FormatError(f"{count} inputs of a chain, 1 to {len(operator.inputs)} expected")
        names = [self._activation(index) for index in operator.inputs[:count]]
        constants = iter(operator.inputs[count:])
        nodes = []
        for layer in layers:
            last = layer.scale is None
            output = self._raw(operator.outputs[0]).name if last else layer.output
            node_name, block = layer.node or output, b""
            if layer.kernel in WEIGHTED_KERNELS:
                index = next(constants, None)
                if index is None:
                    raise FormatError(f"no constants of the layer that writes {output!r}")
                node_name, block = self._constants(index)
            if not all(0 <= number < len(names) for number in layer.inputs):
                raise FormatError(
                    f"{node_name}: inputs {layer.inputs}, 0 to {len(names) - 1} expected"
                )
            inputs = tuple(names[number] for number in layer.inputs)
            call = KernelCall(
                node_name, layer.variant, layer.kernel, layer.params, block, inputs, output
            )
            node = lift(call, _plane(layer))
            if last:
                self._define_output(operator.outputs[0], node, call, header)
            else:
                self._define_inner(node, call, layer)
            self._calls.append(call)
            if layer.band != 1:
                self._bands[node_name] = layer.band
            names.append(output)
            nodes.append(node)
        if next(constants, None) is not None:
            raise FormatError(f"{len(operator.inputs) - count} constants, fewer expected")
        self._chains.append(tuple(node.name for node in nodes))
        self._chain_options.append(operator.options)
        return nodes

    def _define_inner(self, node: IntegerNode, call: KernelCall, layer: LayerOptions) -> None:
        """The output of a layer within a chain, which is no tensor of the file."""
        inputs = [self._tensors[name].quant for name in call.inputs]
        quant = output_quant(call, layer.scale, inputs)
        shape = shape_of_view(node.output_shape, layer.rank)
        if call.output in self._tensors:
            raise FormatError(f"tensor {call.output!r} is defined twice")
        self._tensors[call.output] = IntegerTensor(call.output, shape, quant)

    @staticmethod
    def _split(kernel: Kernel, rest: bytes) -> tuple[bytes, str]:
        """Bytes after the header -> (parameter struct, node name or "")."""
        size = params_size(kernel, rest)
        try:
            return rest[:size], rest[size:].decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"node name {rest[size:][:40]!r} is not UTF-8") from error

    def _define_output(
        self, index: int, node: IntegerNode, call: KernelCall, header: Header
    ) -> None:
        inputs = [self._tensors[name].quant for name in call.inputs]
        quant = output_quant(call, header.output_scale, inputs)
        shape = shape_of_view(node.output_shape, header.output_rank)
        raw = self._raw(index)
        if raw.data is not None:
            raise FormatError(f"output {raw.name!r} is a constant")
        if index == self._file.outputs[0]:
            stored = raw.quantization
            if stored != tflite.Quantization(quant.scale, quant.zero_point):
                raise FormatError(f"output {raw.name!r}: {stored}, but the operator has {quant}")
            if quant.bits != FIXED_BITS or raw.shape[:1] != (1,):
                raise FormatError(
                    f"output {raw.name!r} of {quant.bits} bits and shape {raw.shape}: "
                    f"{FIXED_BITS} bits and batch 1 expected"
                )
        elif raw.shape != packed_shape(shape, quant.bits):
            raise FormatError(
                f"tensor {raw.name!r} of shape {raw.shape}, {packed_shape(shape, quant.bits)} "
                "expected"
            )
        self._define(index, IntegerTensor(raw.name, shape, quant))

    def _define(self, index: int, tensor: IntegerTensor) -> None:
        if index in self._names or tensor.name in self._tensors:
            raise FormatError(f"tensor {index}, {tensor.name!r}, is defined twice")
        self._names[index] = tensor.name
        self._tensors[tensor.name] = tensor

    def _activation(self, index: int) -> str:
        name = self._raw(index).name
        if index not in self._names:
            raise FormatError(f"tensor {index}, {name!r}, is read before it is written")
        return name

    def _raw(self, index: int) -> tflite.Tensor:
        if not 0 <= index < len(self._file.tensors):
            raise FormatError(f"tensor {index}, {_range(self._file)} expected")
        return self._file.tensors[index]

    def _check_duplicates(self, model: IntegerNetwork) -> None:
        """What the structs repeat (zero points, bits, counts) says the same everywhere."""
        for node, call in zip(model.nodes, self._calls, strict=True):
            again = lower(node, model.tensors)
            if again.variant != call.variant:
                raise FormatError(f"{node.name}: {call.variant}, {again.variant} expected")
            if again.params != call.params:
                raise FormatError(
                    f"{node.name}: parameters {call.params.hex()} contradict the tensors, "
                    f"{again.params.hex()} expected"
                )
            if again.constants != call.constants:
                raise FormatError(f"{node.name}: unused bits of the packed weights are not zero")
        for chain, options in zip(model.chains, self._chain_options, strict=True):
            if pack_stream(model, lower_chain(model, chain, zero_constants=True)) != options:
                raise FormatError(
                    f"chain {chain[0]}..{chain[-1]}: its rows or what is said of its tensors "
                    "contradict its layers"
                )


def _plane(layer: LayerOptions) -> tuple[int, int] | None:
    """See `plane_of`."""
    return (layer.rows, layer.columns) if layer.kernel in PLANELESS_KERNELS else None
