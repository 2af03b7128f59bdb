"""The network as the deployed device sees it: one `Node` per kernel call, no framework, no weights.

Batch norm and ReLU are fused into the node before them, dropout is gone, zero padding is folded
into the window that reads it. Weights travel beside the graph, in `LayerWeights`, so that searches
and cost models work on structure alone.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, singledispatch
from typing import Any

import numpy as np

from tfmix.errors import TfmixError
from tfmix.ir.quant import packed_size


class Op(str, enum.Enum):
    """What a node computes. The value is the name used in messages and files."""

    CONV2D = "conv2d"
    DEPTHWISE_CONV2D = "depthwise_conv2d"
    DENSE = "dense"
    BATCH_NORM = "batch_norm"  # standing alone; runs as a 1x1 depthwise of ones
    ADD = "add"
    MULTIPLY = "multiply"  # of two like tensors, or of one and a factor for each channel
    CONCATENATE = "concatenate"
    AVERAGE_POOL = "average_pool"
    MAX_POOL = "max_pool"
    PAD = "pad"  # zero padding that no window could take in
    RESHAPE = "reshape"  # costs nothing: a packed tensor has no rows to realign
    RELU = "relu"  # standing alone; runs as requantize
    LOOKUP = "lookup"  # a function of single elements, see FUNCTIONS
    SOFTMAX = "softmax"


#: Ops with a weight tensor whose bits a policy chooses.
WEIGHTED_OPS = frozenset({Op.CONV2D, Op.DEPTHWISE_CONV2D, Op.DENSE})
#: Ops whose output keeps the scale, zero point and bits of their input.
PASS_THROUGH_OPS = frozenset({Op.MAX_POOL, Op.PAD, Op.RESHAPE})
#: What a lookup may compute, elementwise; all of them give values in [0, 1], and that is the range
#: of the output. Keras 2 and 3 call different functions "hard_sigmoid": the former the first one.
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_sigmoid_6": lambda x: np.clip(x / 6 + 0.5, 0, 1),
}
#: Softmax gives uint8 probabilities: real = q / 256.
SOFTMAX_SCALE = 1.0 / 256.0
#: Bits of the network's input, of its logits and of probabilities, whatever the policy.
FIXED_BITS = 8


@dataclass(frozen=True)
class TensorSpec:
    """An activation tensor. `shape` has no batch dimension; `signed`: it may hold negatives."""

    name: str
    shape: tuple[int, ...]
    signed: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Window:
    """Sliding window: (rows, columns) of kernel and stride; padding (top, bottom, left, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        top, bottom, left, right = self.padding
        return (
            (height + top + bottom - self.kernel[0]) // self.strides[0] + 1,
            (width + left + right - self.kernel[1]) // self.strides[1] + 1,
        )


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of TensorFlow's SAME padding along one axis."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Node:
    """One kernel call.

    name:        the Keras layer that holds the weights (or the only layer fused here).
    output:      the tensor it writes, named after the last Keras layer fused into it.
    window:      conv2d, depthwise_conv2d, average_pool, max_pool.
    padding:     pad only: (top, bottom, left, right).
    batch_norm:  a batch norm is applied to the accumulator (its Keras name), or None.
    relu:        the output passes a ReLU; relu_layer: the Keras layer that applies it, None where
                 it is the `activation=` of the layer itself; relu_max: 6.0 for ReLU6, or None.
    use_bias:    weighted ops: the Keras layer has a bias.
    function:    lookup only: which of FUNCTIONS.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    output: str
    window: Window | None = None
    padding: tuple[int, int, int, int] | None = None
    batch_norm: str | None = None
    relu: bool = False
    relu_layer: str | None = None
    relu_max: float | None = None
    use_bias: bool = False
    function: str | None = None


@dataclass(frozen=True)
class BatchNorm:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, each float32 [channels]."""

    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


@dataclass(frozen=True)
class LayerWeights:
    """Float weights of one node, Keras layout.

    kernel: conv2d [rows, columns, in, out]; depthwise [rows, columns, in, multiplier];
            dense [in, out]; None for a batch norm that stands alone.
    bias:   [out] or None.
    """

    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    batch_norm: BatchNorm | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order. One input, one output."""

    input: str
    output: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorSpec] = field(hash=False)

    # -- who is who -------------------------------------------------------------------------

    @cached_property
    def producers(self) -> dict[str, Node]:
        """Tensor name -> the node that writes it (the network's input has none)."""
        return {node.output: node for node in self.nodes}

    @cached_property
    def weighted_nodes(self) -> tuple[Node, ...]:
        """Nodes with a weight tensor a policy chooses bits for, in execution order."""
        return tuple(node for node in self.nodes if node.op in WEIGHTED_OPS)

    @cached_property
    def steps(self) -> tuple[Node, ...]:
        """Nodes that run a kernel: all but reshapes."""
        return tuple(node for node in self.nodes if node.op is not Op.RESHAPE)

    def quantizer_of(self, tensor: str) -> str:
        """The tensor whose scale, zero point and bits `tensor` shares (itself, or its source)."""
        node = self.producers.get(tensor)
        while node is not None and node.op in PASS_THROUGH_OPS:
            tensor = node.inputs[0]
            node = self.producers.get(tensor)
        return tensor

    def buffer_of(self, tensor: str) -> str:
        """The tensor whose memory `tensor` occupies: a reshape shares that of its input."""
        node = self.producers.get(tensor)
        while node is not None and node.op is Op.RESHAPE:
            tensor = node.inputs[0]
            node = self.producers.get(tensor)
        return tensor

    @cached_property
    def quantized_tensors(self) -> tuple[str, ...]:
        """Tensors with a quantizer of their own, in execution order, the network's input first."""
        own = [self.input]
        own += [
            n.output for n in self.nodes if n.op not in PASS_THROUGH_OPS and n.op is not Op.SOFTMAX
        ]
        return tuple(own)

    @cached_property
    def fixed_tensors(self) -> frozenset[str]:
        """Quantized tensors that stay at 8 bits: input, output, logits (what softmax reads, or the
        lookup that gives the output)."""
        output = self.quantizer_of(self.output)
        fixed = {self.input, output}
        for node in self.nodes:
            if node.op is Op.SOFTMAX or (node.op is Op.LOOKUP and node.output == output):
                fixed.add(self.quantizer_of(node.inputs[0]))
        return frozenset(fixed & set(self.quantized_tensors))

    def is_softmax_output(self, tensor: str) -> bool:
        node = self.producers.get(self.quantizer_of(tensor))
        return node is not None and node.op is Op.SOFTMAX

    # -- sizes ------------------------------------------------------------------------------

    def tensor_bits(self, tensor: str, activation_bits: Mapping[str, int]) -> int:
        """Bit-width of any tensor under a policy's `activation_bits`."""
        if self.is_softmax_output(tensor):
            return FIXED_BITS
        return activation_bits[self.quantizer_of(tensor)]

    def tensor_bytes(self, tensor: str, activation_bits: Mapping[str, int]) -> int:
        """Packed bytes of any tensor under a policy's `activation_bits`."""
        return packed_size(self.tensors[tensor].elements, self.tensor_bits(tensor, activation_bits))

    def hwc(self, tensor: str) -> tuple[int, int, int]:
        """(rows, columns, channels) of a tensor; features count as one pixel."""
        shape = self.tensors[tensor].shape
        if len(shape) == 3:
            return shape  # type: ignore[return-value]
        return (1, math.prod(shape[:-1]), shape[-1])

    def output_channels(self, node: Node) -> int:
        return self.hwc(node.output)[2]

    def kernel_shape(self, node: Node) -> tuple[int, ...]:
        """Shape of the node's weight tensor in Keras layout (see LayerWeights)."""
        cin, cout = self.hwc(node.inputs[0])[2], self.output_channels(node)
        if node.op is Op.DENSE:
            return (cin, cout)
        if node.op is Op.CONV2D:
            return (*node.window.kernel, cin, cout)
        if node.op is Op.DEPTHWISE_CONV2D:
            return (*node.window.kernel, cin, cout // cin)
        if node.op is Op.BATCH_NORM:
            return (1, 1, cin, 1)
        raise ValueError(f"{node.name}: a {node.op.value} has no weights")

    def weight_elements(self, node: Node) -> int:
        return math.prod(self.kernel_shape(node))

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of one inference of a node with weights, else 0."""
        if node.op not in WEIGHTED_OPS:
            return 0
        rows, columns, _ = self.hwc(node.output)
        return rows * columns * self.weight_elements(node)


@singledispatch
def as_graph(model: Any) -> Graph:
    """The graph of whatever describes a network: a Graph, or a model of a framework whose reader
    has registered itself here. TfmixError for anything else."""
    raise TfmixError(
        f"{type(model).__module__}.{type(model).__name__} is neither a tf_keras.Model nor a Graph"
    )


@as_graph.register
def _(model: Graph) -> Graph:
    return model
