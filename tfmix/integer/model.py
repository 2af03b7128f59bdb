"""`IntegerNetwork`: the network in integers, one `IntegerNode` per kernel call.

A value object: `convert` makes it, `load` reads it back from a file, and the reference executor,
the C kernels and the exporter consume it. docs/arithmetic.md defines what each field means.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from tfmix.ir.graph import Window
from tfmix.ir.quant import QuantParams


class Kernel(str, enum.Enum):
    """The kernels there are. The value is the stem of every variant's name."""

    CONV2D = "conv2d"
    DEPTHWISE_CONV2D = "depthwise_conv2d"
    FULLY_CONNECTED = "fully_connected"
    ADD = "add"
    MULTIPLY = "multiply"
    CONCATENATE = "concatenate"
    REQUANTIZE = "requantize"
    LOOKUP = "lookup"
    AVERAGE_POOL = "average_pool"
    MAX_POOL = "max_pool"
    PAD = "pad"
    SOFTMAX = "softmax"


WEIGHTED_KERNELS = frozenset({Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D, Kernel.FULLY_CONNECTED})
#: Kernels with two inputs.
BINARY_KERNELS = frozenset({Kernel.ADD, Kernel.MULTIPLY})
#: Kernels whose constants are a table.
TABLE_KERNELS = frozenset({Kernel.LOOKUP, Kernel.SOFTMAX})
#: Kernels that slide a `Window` over their input.
WINDOW_KERNELS = frozenset(
    {Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D, Kernel.AVERAGE_POOL, Kernel.MAX_POOL}
)


def used_padding(size: int, kernel: int, stride: int, before: int, output: int) -> int:
    """Padding after the image that `output` windows along one axis reach: never negative.

    size: of the image; before: padding before it.
    """
    return max(0, (output - 1) * stride + kernel - size - before)


def canonical_window(window: Window, height: int, width: int) -> Window:
    """`window` over a height x width image, its bottom and right padding cut to what it reaches.

    The windows of an `IntegerNode` are canonical, so that one computation has one description:
    a ZeroPadding2D may add rows that no window gets to. Kernels see only top and left.
    """
    rows, columns = window.output_size(height, width)
    top, _, left, _ = window.padding
    bottom = used_padding(height, window.kernel[0], window.strides[0], top, rows)
    right = used_padding(width, window.kernel[1], window.strides[1], left, columns)
    return replace(window, padding=(top, bottom, left, right))


@dataclass(frozen=True, eq=False)
class _ArrayFields:
    """Equality of dataclasses that hold arrays: same dtype, shape and values."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        for f in fields(self):
            a, b = getattr(self, f.name), getattr(other, f.name)
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                if a.dtype != b.dtype or a.shape != b.shape or not np.array_equal(a, b):
                    return False
            elif a is not b and a != b:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class IntegerWeights(_ArrayFields):
    """Weights and requantize constants of one layer, oc = output channels.

    values:      uint8, in [0, 2^bits - 1]; conv2d [oc, rows, columns, ic],
                 depthwise [rows, columns, oc], fully_connected [oc, ic].
    zero_point:  uint8 [oc] per channel, [1] per layer.
    bias:        int32 [oc], with left_shift fractional bits; the input's zero point is folded in:
                 bias = B_q - (input_zero_point * sum_k(w_k - zero_point) << left_shift).
    multiplier:  int32 [oc] or [1]: round(M * 2^(32 - left_shift)).
    """

    values: np.ndarray
    bits: int
    per_channel: bool
    zero_point: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    left_shift: int


@dataclass(frozen=True)
class Rescale:
    """q_out = zero_point_out + requantize(q_in - zero_point_in): multiplier of one scale ratio."""

    multiplier: int
    left_shift: int


@dataclass(frozen=True)
class AddRescale:
    """q_out = zero_point_out + ((q_a*multipliers[0] + q_b*multipliers[1] + offset) >> shift)."""

    multipliers: tuple[int, int]
    offset: int
    shift: int


@dataclass(frozen=True)
class IntegerTensor:
    """An activation buffer: `shape` has no batch dimension."""

    name: str
    shape: tuple[int, ...]
    quant: QuantParams


@dataclass(frozen=True, eq=False)
class IntegerNode(_ArrayFields):
    """One kernel call. (rows, columns, channels) of each input and of the output are the node's
    own view: a reshape between two nodes leaves no trace but these.

    window:   conv2d, depthwise_conv2d, average_pool, max_pool; see `canonical_window`
    padding:  pad: (top, bottom, left, right)
    weights:  conv2d, depthwise_conv2d, fully_connected
    rescales: requantize and average_pool: one; concatenate: one per input; multiply: one, of the
              products
    add:      add
    table:    softmax: uint16 [<= 256]; lookup: uint8 [2^input bits]
    """

    name: str
    kernel: Kernel
    inputs: tuple[str, ...]
    output: str
    input_shapes: tuple[tuple[int, int, int], ...]
    output_shape: tuple[int, int, int]
    window: Window | None = None
    padding: tuple[int, int, int, int] | None = None
    weights: IntegerWeights | None = None
    rescales: tuple[Rescale, ...] = ()
    add: AddRescale | None = None
    table: np.ndarray | None = None


@dataclass(frozen=True)
class IntegerNetwork:
    """An integer-only network; one input, one output, nodes in execution order.

    input_shape, output_shape: as the Keras model has them, without the batch dimension; the
    buffers in `tensors` may have another shape of as many elements.
    chains: names of nodes that run together, row by row, each chain a run of neighbours in `nodes`;
    the values are the same as without (docs/streaming.md). bands: of a node in a chain, how many
    rows it makes at a time, where that is more than one.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    tensors: Mapping[str, IntegerTensor] = field(hash=False)
    nodes: tuple[IntegerNode, ...] = field(hash=False)
    chains: tuple[tuple[str, ...], ...] = ()
    bands: Mapping[str, int] = field(default_factory=dict, hash=False)
