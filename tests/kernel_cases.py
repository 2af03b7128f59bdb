"""Random nodes for one kernel variant each, with the shapes and values where mistakes hide.

Odd channel counts, single pixels, asymmetric padding, windows larger than the image, zero points
at both ends of the range, multipliers that saturate, negative ones, left shifts, and now and then
sums and channel counts longer than the runs that kernels work in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tfmix.integer.abi import Variant, parse_variant
from tfmix.integer.model import (
    AddRescale,
    IntegerNode,
    IntegerTensor,
    IntegerWeights,
    Kernel,
    Rescale,
    used_padding,
)
from tfmix.ir.graph import SOFTMAX_SCALE, Window
from tfmix.ir.quant import BIT_WIDTHS, QuantParams, max_level

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Case:
    """A node, the tensors it reads and writes, and values for its inputs."""

    node: IntegerNode
    tensors: dict[str, IntegerTensor]
    inputs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Shape:
    """What is not left to chance. Sizes are of (rows, columns), padding is (top, left).

    channels: of each input
    kernel:   with strides, padding and output: the window, drawn where kernel is None
    largest:  inputs and weights all have their largest value
    left_shift: of a kernel with weights, and of multiply
    same: multiply: whether the second factor has the shape of the first
    """

    plane: tuple[int, int] | None = None
    channels: int | None = None
    output_channels: int | None = None
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output: tuple[int, int] = (1, 1)
    largest: bool = False
    left_shift: int | None = None
    same: bool | None = None


def random_case(variant: str, rng: np.random.Generator, shape: Shape | None = None) -> Case:
    return _Draw(parse_variant(variant), rng, shape or Shape()).case()


class _Draw:
    def __init__(self, variant: Variant, rng: np.random.Generator, shape: Shape):
        self.variant = variant
        self.rng = rng
        self.shape = shape

    def case(self) -> Case:
        kernel = self.variant.kernel
        shapes, output_shape, fields = getattr(self, f"_{kernel.value}")()
        bits = [self.variant.a, self.variant.b][: len(shapes)]
        if kernel is Kernel.CONCATENATE:
            bits = [int(self.rng.choice(BIT_WIDTHS)) for _ in shapes]
        quants = [self._quant(b) for b in bits]
        if kernel in (Kernel.MAX_POOL, Kernel.PAD):
            output = quants[0]
        elif kernel is Kernel.SOFTMAX:
            output = QuantParams(SOFTMAX_SCALE, 0, 8)
        else:
            output = self._quant(self.variant.output_bits)
        names = [f"x{i}" for i in range(len(shapes))]
        tensors = {
            name: IntegerTensor(name, shape, quant)
            for name, shape, quant in zip(
                [*names, "y"], [*shapes, output_shape], [*quants, output], strict=True
            )
        }
        node = IntegerNode("node", kernel, tuple(names), "y", tuple(shapes), output_shape, **fields)
        inputs = tuple(self._values(shape, q.bits) for shape, q in zip(shapes, quants, strict=True))
        return Case(node, tensors, inputs)

    # -- pieces -----------------------------------------------------------------------------

    def _int(self, low: int, high: int) -> int:
        """Uniform in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def _one_in(self, n: int) -> bool:
        return self._int(1, n) == 1

    def _quant(self, bits: int) -> QuantParams:
        ends = self._int(0, 3)
        zero_point = {0: 0, 1: max_level(bits)}.get(ends, self._int(0, max_level(bits)))
        return QuantParams(0.1, zero_point, bits)

    def _values(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        if self.shape.largest:
            return np.full(shape, max_level(bits), np.uint8)
        return self.rng.integers(0, max_level(bits) + 1, shape, np.uint8)

    def _input_channels(self, long: int = 45) -> int:
        return self.shape.channels or self._channels(long)

    def _output_channels(self) -> int:
        return self.shape.output_channels or self._channels()

    def _channels(self, long: int = 45) -> int:
        return self._int(1, long) if self._one_in(6) else self._int(1, 7)

    def _plane(self) -> tuple[int, int]:
        if self.shape.plane:
            return self.shape.plane
        return (1, 1) if self._one_in(6) else (self._int(1, 5), self._int(1, 5))

    def _axis(self, size: int) -> tuple[int, int, int, int, int]:
        """(kernel, stride, padding before, padding after, output size)."""
        kernel, stride = self._int(1, 4), self._int(1, 3)
        before = self._int(0, kernel - 1)
        output = self._int(1, (size - 1 + before) // stride + 1)
        return kernel, stride, before, used_padding(size, kernel, stride, before, output), output

    def _window(self) -> tuple[tuple[int, int], tuple[int, int], Window]:
        plane = self._plane()
        s = self.shape
        if s.kernel:
            axes = zip(plane, s.kernel, s.strides, s.padding, s.output, strict=True)
            bottom, right = (used_padding(*axis) for axis in axes)
            top, left = s.padding
            return plane, s.output, Window(s.kernel, s.strides, (top, bottom, left, right))
        (kh, sh, top, bottom, oh), (kw, sw, left, right, ow) = map(self._axis, plane)
        return plane, (oh, ow), Window((kh, kw), (sh, sw), (top, bottom, left, right))

    def _multiplier(self, values: float, left_shift: int) -> int:
        """Spreads values of this size over the output, or saturates; powers of two make ties."""
        levels = 2.0 ** (self.variant.output_bits or 8)
        m = levels / values * self.rng.uniform(0.1, 4.0) * 2.0 ** (32 - left_shift)
        if self._one_in(3):
            m = 2.0 ** math.floor(math.log2(m))
        return int(min(m, INT32_MAX))

    def _rescale(self, elements: int = 1) -> Rescale:
        left_shift = self._int(0, 8)
        return Rescale(self._multiplier(2.0 ** (self.variant.a or 8), left_shift), left_shift)

    def _weights(self, shape: tuple[int, ...], channels: int, depth: int) -> IntegerWeights:
        v = self.variant
        largest = depth * max_level(v.a) * max_level(v.weight_bits)
        left_shift = min(self._int(0, 4), int(math.log2(INT32_MAX // 2 / largest)))
        if self.shape.left_shift is not None:
            left_shift = self.shape.left_shift
        spread = math.sqrt(depth) * 2.0 ** (v.a + v.weight_bits) / 4
        multipliers = channels if v.per_channel or self._one_in(2) else 1
        bias = self.rng.uniform(-spread, spread, channels) * 2.0**left_shift
        sizes = [self._multiplier(spread, left_shift) for _ in range(multipliers)]
        signs = self.rng.choice([-1, 1, 1], multipliers)
        return IntegerWeights(
            values=self._values(shape, v.weight_bits),
            bits=v.weight_bits,
            per_channel=v.per_channel,
            zero_point=np.array(
                [self._quant(v.weight_bits).zero_point for _ in range(channels)], np.uint8
            )[: channels if v.per_channel else 1],
            bias=bias.astype(np.int32),
            multiplier=(np.array(sizes) * signs).astype(np.int32),
            left_shift=left_shift,
        )

    # -- one method per kernel: input shapes, output shape, fields of the node ------------------

    def _conv2d(self):
        plane, output, window = self._window()
        ic, oc = self._input_channels(), self._output_channels()
        weights = self._weights((oc, *window.kernel, ic), oc, math.prod(window.kernel) * ic)
        return [(*plane, ic)], (*output, oc), {"window": window, "weights": weights}

    def _depthwise_conv2d(self):
        plane, output, window = self._window()
        ic = self._input_channels()
        oc = self.shape.output_channels or ic * (self._int(2, 3) if self._one_in(3) else 1)
        weights = self._weights((*window.kernel, oc), oc, math.prod(window.kernel))
        return [(*plane, ic)], (*output, oc), {"window": window, "weights": weights}

    def _fully_connected(self):
        plane, ic, oc = self._plane(), self._input_channels(), self._output_channels()
        features = math.prod(plane) * ic
        weights = self._weights((oc, features), oc, features)
        return [(*plane, ic)], (1, 1, oc), {"weights": weights}

    def _add(self):
        shape = (*self._plane(), self._input_channels())
        shift = self._int(1, 20)
        multipliers = [int(m) for m in self.rng.uniform(-2, 2, 2) * 2.0**shift]
        offset = int(self.rng.uniform(-200, 200) * 2.0**shift)
        return [shape] * 2, shape, {"add": AddRescale(tuple(multipliers), offset, shift)}

    def _multiply(self):
        shape = (*self._plane(), self._input_channels())
        same = self._one_in(2) if self.shape.same is None else self.shape.same
        left_shift = 0 if self._one_in(2) else self._int(0, 12)
        if self.shape.left_shift is not None:
            left_shift = self.shape.left_shift
        values = 2.0 ** (self.variant.a + self.variant.b)
        multiplier = INT32_MAX if self._one_in(8) else self._multiplier(values, left_shift)
        rescale = Rescale(max(multiplier, 1), left_shift)
        return [shape, shape if same else (1, 1, shape[2])], shape, {"rescales": (rescale,)}

    def _concatenate(self):
        plane = self._plane()
        channels = [self._input_channels() for _ in range(self._int(1, 4))]
        rescales = tuple(self._rescale() for _ in channels)
        return [(*plane, c) for c in channels], (*plane, sum(channels)), {"rescales": rescales}

    def _requantize(self):
        shape = (*self._plane(), self._input_channels())
        return [shape], shape, {"rescales": (self._rescale(),)}

    def _lookup(self):
        shape = (*self._plane(), self._input_channels())
        table = self._values((max_level(self.variant.a) + 1,), self.variant.output_bits)
        return [shape], shape, {"table": table}

    def _average_pool(self):
        plane, output, window = self._window()
        c = self._input_channels()
        fields = {"window": window, "rescales": (self._rescale(),)}
        return [(*plane, c)], (*output, c), fields

    def _max_pool(self):
        plane, output, window = self._window()
        c = self._input_channels()
        return [(*plane, c)], (*output, c), {"window": window}

    def _pad(self):
        (rows, columns), c = self._plane(), self._input_channels()
        top, bottom, left, right = padding = tuple(self._int(0, 3) for _ in range(4))
        output = (rows + top + bottom, columns + left + right, c)
        return [(rows, columns, c)], output, {"padding": padding}

    def _softmax(self):
        plane = self.shape.plane or (1, self._int(1, 3))
        shape = (*plane, self._input_channels(long=300))
        d = np.arange(self._int(1, 256))
        table = np.floor(65_535 * np.exp(-d * self.rng.uniform(0.001, 2.0)) + 0.5)
        return [shape], shape, {"table": table.astype(np.uint16)}
