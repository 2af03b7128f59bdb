"""Fake-quant model -> integers: docs/arithmetic.md, from its real-valued side.

Weights, scales and zero points come from the quantizers themselves, so the integers stored are the
very ones that training saw; what is turned into fixed point here is batch norm, bias and scale
ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import tf_keras

from tfmix.errors import ConversionError
from tfmix.fakequant.apply import BoundQuantizer, quantizers_of, require_quantized
from tfmix.fakequant.layerwise import Layerwise
from tfmix.integer.model import (
    AddRescale,
    IntegerNetwork,
    IntegerNode,
    IntegerTensor,
    IntegerWeights,
    Kernel,
    Rescale,
    canonical_window,
)
from tfmix.ir.graph import (
    FUNCTIONS,
    SOFTMAX_SCALE,
    WEIGHTED_OPS,
    BatchNorm,
    Graph,
    LayerWeights,
    Node,
    Op,
    Window,
)
from tfmix.ir.quant import QuantParams, check_bits, max_level, round_half_up
from tfmix.policy.cost.streaming import NO_CHAINS, ChainPlan
from tfmix.policy.policy import QuantizationPolicy

_INT32_MAX = 2**31 - 1
_UINT32_MAX = 2**32 - 1
#: Halvings after which no bit of any weight is left.
_MOST_HALVINGS = 9
#: Multipliers below have so few bits that the output shows it.
COARSE_MULTIPLIER = 1 << 12
#: Bits of the weights of a batch norm that stands alone: they are all one.
_ONES_BITS = 2
#: Upper limit of an add's multipliers; 2^21 * 255 * 2 + 2^30 stays inside int32.
_ADD_MULTIPLIER_MAX = 1 << 21
#: Unsigned 32-bit sums of softmax hold this many classes.
_MAX_CLASSES = 32767


def convert_network(model: tf_keras.Model, plan: ChainPlan = NO_CHAINS) -> IntegerNetwork:
    """The integer network of a fake-quant model, at the bits now set. plan: its chains.

    Raises CalibrationError where an activation's range is not known, UnsupportedModelError where
    weights are not finite, ConversionError naming the layer where 32 bits do not hold its numbers.
    """
    require_quantized(model)
    layers = Layerwise(model)
    network = layers.network
    quantizers = quantizers_of(model)
    quants = {
        name: bound.quantizer.quant_params(bound.variables, name)
        for name, bound in quantizers.activations.items()
    }
    lowering = _Lowering(network.graph, quants, layers)

    def weights_of(node: Node) -> IntegerWeights:
        return _integer_weights(
            lowering, node, network.weights[node.name], quantizers.weights.get(node.name)
        )

    return replace(lowering.network(weights_of), chains=plan.chains, bands=plan.bands)


def skeleton(
    graph: Graph,
    policy: QuantizationPolicy,
    *,
    per_channel: bool,
    plan: ChainPlan = NO_CHAINS,
) -> IntegerNetwork:
    """An integer network with the structure and sizes of `graph` under `policy`, and no values.

    Its file is as large as that of the real one, byte for byte: a search measures sizes with it.
    """
    lowering = _Lowering(
        graph, {name: QuantParams(1.0, 0, bits) for name, bits in policy.activation_bits.items()}
    )

    def weights_of(node: Node) -> IntegerWeights:
        alone = node.op is Op.BATCH_NORM
        oc = graph.output_channels(node)
        return IntegerWeights(
            values=kernel_order(node, np.zeros(graph.kernel_shape(node), np.uint8), graph),
            bits=_ONES_BITS if alone else policy.weight_bits[node.name],
            per_channel=per_channel and not alone,
            zero_point=np.zeros(oc if per_channel and not alone else 1, np.uint8),
            bias=np.zeros(oc, np.int32),
            multiplier=np.zeros(oc if per_channel or node.batch_norm else 1, np.int32),
            left_shift=0,
        )

    return replace(lowering.network(weights_of), chains=plan.chains, bands=plan.bands)


# -- fixed point ------------------------------------------------------------------------------


def fixed_point(factors: np.ndarray, what: str) -> tuple[np.ndarray, int]:
    """Real factors M, any shape -> (int32 round(M * 2^(32 - L)), L), L the least shift that fits.

    Raises ConversionError naming `what` where a factor is not finite or above 2^30.
    """
    factors = np.asarray(factors, np.float64)
    if not np.isfinite(factors).all():
        raise ConversionError(f"{what}: scale ratio {factors} is not finite")
    for left_shift in range(32):
        multiplier = round_half_up(factors * 2.0 ** (32 - left_shift))
        if np.abs(multiplier).max(initial=0) <= _INT32_MAX:
            return multiplier.astype(np.int32), left_shift
    raise ConversionError(
        f"{what}: scale ratio {np.abs(factors).max():.3g} is too large for int32; allowed: < 2^30"
    )


# -- structure --------------------------------------------------------------------------------


class _Lowering:
    """Graph -> integer nodes, given the quantization of each tensor.

    layers: the fake-quant model, whose sums those of the integers are to be; None to do without.
    """

    def __init__(
        self, graph: Graph, quants: Mapping[str, QuantParams], layers: Layerwise | None = None
    ):
        self.graph = graph
        self._quants = quants
        self._layers = layers

    def quant(self, tensor: str) -> QuantParams:
        if self.graph.is_softmax_output(tensor):
            return QuantParams(SOFTMAX_SCALE, 0, 8)
        return self._quants[self.graph.quantizer_of(tensor)]

    def network(self, weights_of: Callable[[Node], IntegerWeights]) -> IntegerNetwork:
        graph = self.graph
        buffers = [graph.input] + [node.output for node in graph.steps]
        return IntegerNetwork(
            input=graph.input,
            output=graph.buffer_of(graph.output),
            input_shape=graph.tensors[graph.input].shape,
            output_shape=graph.tensors[graph.output].shape,
            tensors={
                name: IntegerTensor(name, graph.tensors[name].shape, self.quant(name))
                for name in buffers
            },
            nodes=tuple(self._node(node, weights_of) for node in graph.steps),
        )

    def _node(self, node: Node, weights_of: Callable[[Node], IntegerWeights]) -> IntegerNode:
        graph, op = self.graph, node.op
        kernel, window = _kernel(node, graph)
        weighted = op in WEIGHTED_OPS or op is Op.BATCH_NORM
        return IntegerNode(
            name=node.name,
            kernel=kernel,
            inputs=tuple(graph.buffer_of(name) for name in node.inputs),
            output=node.output,
            input_shapes=tuple(graph.hwc(name) for name in node.inputs),
            output_shape=graph.hwc(node.output),
            window=window and canonical_window(window, *graph.hwc(node.inputs[0])[:2]),
            padding=node.padding,
            weights=weights_of(node) if weighted else None,
            rescales=self._rescales(node),
            add=self._add(node) if op is Op.ADD else None,
            table=self._table(node),
        )

    def _ratio(self, node: Node, source: str) -> float:
        return self.quant(source).scale / self.quant(node.output).scale

    def _rescales(self, node: Node) -> tuple[Rescale, ...]:
        if node.op is Op.MULTIPLY:
            a, b = (self.quant(name) for name in node.inputs)
            ratio = a.scale * b.scale / self.quant(node.output).scale
            largest = math.prod(max(q.zero_point, max_level(q.bits) - q.zero_point) for q in (a, b))
            return (_rescale(ratio, largest, f"{node.name}, product of the inputs"),)
        if node.op not in (Op.RELU, Op.CONCATENATE, Op.AVERAGE_POOL):
            return ()
        largest = 255 * (math.prod(node.window.kernel) if node.window else 1)
        return tuple(
            _rescale(self._ratio(node, name), largest, f"{node.name}, input {name}")
            for name in node.inputs
        )

    def _add(self, node: Node) -> AddRescale:
        ratios = np.array([self._ratio(node, name) for name in node.inputs])
        for shift in range(31, 0, -1):
            m_a, m_b = (int(m) for m in round_half_up(ratios * 2.0**shift))
            if max(m_a, m_b) <= _ADD_MULTIPLIER_MAX:
                z_a, z_b = (self.quant(name).zero_point for name in node.inputs)
                offset = (1 << (shift - 1)) - m_a * z_a - m_b * z_b
                return self._settled(node, AddRescale((m_a, m_b), offset, shift))
        raise ConversionError(
            f"{node.name}: scale ratio {ratios.max():.3g} of an input to the sum is too large; "
            "allowed: < 2^20"
        )

    def _settled(self, node: Node, add: AddRescale) -> AddRescale:
        """`add` with the offset nearest to its own that gives the fake-quant model's sum for most
        pairs of inputs.

        A tensor of 2 bits has four values, and a sum of two such tensors 16. Training can leave one
        of them on a tie, within float32's precision: it moves the output's step until the sum is
        rounded the other way, and back again. Fixed point then may fall on the other side, for all
        elements that have these inputs.
        """
        if self._layers is None:
            return add
        grids = [np.arange(max_level(self.quant(name).bits) + 1) for name in node.inputs]
        q_a, q_b = (q.ravel() for q in np.meshgrid(*grids, indexing="ij"))
        values = [
            self._layers.quantize(self.graph.quantizer_of(name), self.quant(name).dequantize(q))
            for name, q in zip(node.inputs, (q_a, q_b), strict=True)
        ]
        output = self.quant(node.output)
        wanted = output.quantize(self._layers.run(node, *values).numpy()).astype(np.int64)
        # floor((sum + offset) / 2^shift) is the wanted number for offsets from `least` to below
        # `end`; the ends of the range hold whatever is beyond.
        sums = q_a * add.multipliers[0] + q_b * add.multipliers[1]
        least = ((wanted - output.zero_point) << add.shift) - sums
        end = np.sort(least[wanted < max_level(output.bits)] + (1 << add.shift))
        least = np.sort(least[wanted > 0])
        offsets = np.unique([add.offset, *least, *(end - 1)])
        agreeing = np.searchsorted(least, offsets, "right") - np.searchsorted(end, offsets, "right")
        best = offsets[agreeing == agreeing.max()]
        return replace(add, offset=int(best[np.abs(best - add.offset).argmin()]))

    def _table(self, node: Node) -> np.ndarray | None:
        if node.op is Op.SOFTMAX:
            return self._softmax_table(node)
        if node.op is not Op.LOOKUP:
            return None
        x = self.quant(node.inputs[0])
        values = x.dequantize(np.arange(max_level(x.bits) + 1))
        return self.quant(node.output).quantize(FUNCTIONS[node.function](values))

    def _softmax_table(self, node: Node) -> np.ndarray:
        rows, columns, classes = self.graph.hwc(node.inputs[0])
        if classes > _MAX_CLASSES:
            raise ConversionError(
                f"{node.name}: softmax over {classes} classes; allowed: at most {_MAX_CLASSES}"
            )
        distance = np.arange(256) * self.quant(node.inputs[0]).scale
        return round_half_up(65535 * np.exp(-distance)).astype(np.uint16)


def _rescale(ratio: float, largest: int, what: str) -> Rescale:
    """`ratio` as a factor of integers up to `largest`. ConversionError naming `what`."""
    multiplier, left_shift = fixed_point(np.array(ratio), what)
    if largest << left_shift > _INT32_MAX:
        raise ConversionError(f"{what}: scale ratio {ratio:.3g} is too large for 32 bits")
    if multiplier <= 0:
        raise ConversionError(f"{what}: scale ratio {ratio:.3g} is too small for 32 bits")
    return Rescale(int(multiplier), left_shift)


def _kernel(node: Node, graph: Graph) -> tuple[Kernel, Window | None]:
    """The kernel that runs a node, and its window."""
    if node.op is Op.DENSE:
        # A dense layer over several pixels is a 1x1 convolution.
        if graph.hwc(node.inputs[0])[:2] == (1, 1):
            return Kernel.FULLY_CONNECTED, None
        return Kernel.CONV2D, Window((1, 1))
    kernel = {
        Op.CONV2D: Kernel.CONV2D,
        Op.DEPTHWISE_CONV2D: Kernel.DEPTHWISE_CONV2D,
        Op.BATCH_NORM: Kernel.DEPTHWISE_CONV2D,
        Op.ADD: Kernel.ADD,
        Op.MULTIPLY: Kernel.MULTIPLY,
        Op.CONCATENATE: Kernel.CONCATENATE,
        Op.AVERAGE_POOL: Kernel.AVERAGE_POOL,
        Op.MAX_POOL: Kernel.MAX_POOL,
        Op.PAD: Kernel.PAD,
        Op.RELU: Kernel.REQUANTIZE,
        Op.LOOKUP: Kernel.LOOKUP,
        Op.SOFTMAX: Kernel.SOFTMAX,
    }[node.op]
    return kernel, node.window


def kernel_order(node: Node, q: np.ndarray, graph: Graph) -> np.ndarray:
    """Keras layout -> that of IntegerWeights.values."""
    if _kernel(node, graph)[0] is Kernel.DEPTHWISE_CONV2D:
        return q.reshape(*q.shape[:2], -1)
    if node.op is Op.DENSE:
        rows = q.T
        return rows if _kernel(node, graph)[1] is None else rows.reshape(len(rows), 1, 1, -1)
    return q.transpose(3, 0, 1, 2)


# -- weights ----------------------------------------------------------------------------------


def _integer_weights(
    lowering: _Lowering, node: Node, float_weights: LayerWeights, bound: BoundQuantizer | None
) -> IntegerWeights:
    graph = lowering.graph
    oc = graph.output_channels(node)
    if bound is None:  # a batch norm that stands alone
        q = np.ones((1, 1, oc), np.uint8)
        bits, per_channel = _ONES_BITS, False
        scale, zero_point = np.ones(1), np.zeros(1, np.int64)
    else:
        bits = check_bits(int(bound.variables["bits"].numpy()), node.name)
        per_channel = bound.quantizer.per_channel
        parts = bound.quantizer.quantize(bound.kernel, bound.variables)
        q, scale, zero_point = (part.numpy() for part in parts)
        if not np.isfinite(scale).all():
            raise ConversionError(
                f"{node.name}: the step sizes of its weights are not finite; training has diverged"
            )
        q = kernel_order(node, q.astype(np.uint8), graph)
        scale, zero_point = scale.reshape(-1).astype(np.float64), zero_point.reshape(-1)
        zero_point = zero_point.astype(np.int64)

    x, y = lowering.quant(node.inputs[0]), lowering.quant(node.output)
    gain, offset = _gain_and_offset(float_weights.bias, float_weights.batch_norm, oc)
    step = x.scale * scale  # real value of one accumulator unit, [oc] or [1]
    factor = step * gain / y.scale  # M, [oc] or [1]
    depthwise = _kernel(node, graph)[0] is Kernel.DEPTHWISE_CONV2D
    by_channel = (q.reshape(-1, oc).T if depthwise else q.reshape(oc, -1)).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sums = LayerSums(
            centred=by_channel - zero_point[:, None],
            offset=offset / (step * gain),
            factor=factor,
            input_zero_point=x.zero_point,
            input_top=max_level(x.bits),
            output_top=max_level(y.bits),
            largest=_largest_sum(node, by_channel.shape[1], x.bits, bits),
        )
    left_shift, fit = choose_left_shift(sums, node.name)
    multiplier = round_half_up(fit.factor * 2.0 ** (32 - left_shift)).astype(np.int32)
    bias = round_half_up(fit.bias * 2.0**left_shift)
    if fit.constant.any():
        bias, multiplier = _make_constant(fit.constant, bias, multiplier, offset / y.scale, y)
    values = fit.centred + zero_point[:, None]
    return IntegerWeights(
        values=(values.T if depthwise else values).reshape(q.shape).astype(np.uint8),
        bits=bits,
        per_channel=per_channel,
        zero_point=zero_point.astype(np.uint8),
        bias=bias.astype(np.int32),
        multiplier=multiplier.reshape(-1),
        left_shift=left_shift,
    )


def _gain_and_offset(
    bias: np.ndarray | None, bn: BatchNorm | None, oc: int
) -> tuple[np.ndarray, np.ndarray]:
    """The layer as gain * sum(x * w) + offset: gain [oc] with batch norm, else [1]; offset [oc]."""
    b = np.zeros(oc) if bias is None else bias.astype(np.float64)
    if bn is None:
        return np.ones(1), b
    gain = bn.gamma.astype(np.float64) / np.sqrt(bn.variance.astype(np.float64) + bn.epsilon)
    return gain, (b - bn.mean) * gain + bn.beta


def _make_constant(
    constant: np.ndarray,
    bias: np.ndarray,
    multiplier: np.ndarray,
    value: np.ndarray,
    y: QuantParams,
) -> tuple[np.ndarray, np.ndarray]:
    """Bias and multiplier with which requantize gives exactly `value`, rounded, in LSB."""
    value = np.clip(round_half_up(value), -y.zero_point, max_level(y.bits) - y.zero_point)
    # (value * 4) * 2^30 = value * 2^32
    bias = np.where(constant, value * 4, bias)
    return bias, np.where(constant[: multiplier.size], 1 << 30, multiplier).astype(np.int32)


# -- proofs -----------------------------------------------------------------------------------


def _largest_sum(node: Node, count: int, input_bits: int, weight_bits: int) -> int:
    """Greatest sum of `count` products of unsigned inputs and weights, if 32 bits hold it."""
    largest = max_level(input_bits) * max_level(weight_bits)
    # The kernels also add up inputs times whole bytes of packed weights, in uint32.
    most = min(_INT32_MAX // largest, _UINT32_MAX // (max_level(input_bits) * 255))
    if count > most:
        raise ConversionError(
            f"{node.name}: {count} products of {input_bits} by {weight_bits} bits overflow a "
            f"32-bit accumulator; allowed: at most {most}"
        )
    return count * largest


@dataclass(frozen=True)
class FittedSums:
    """A layer's sums as int32 holds them at some left shift: output = factor * (sum + bias).

    centred:   weights minus zero point [oc, products]
    bias:      real, in accumulator units [oc]
    factor:    M of docs/arithmetic.md, [oc] or [1]
    constant:  channels without a sum, whose output is the offset; the three above are 0 [oc]
    error:     bound on the error of the output in LSB, infinite where 32 bits do not do [oc]
    """

    centred: np.ndarray
    bias: np.ndarray
    factor: np.ndarray
    constant: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class LayerSums:
    """A layer's output channels in real numbers: output = factor * (sum of products + offset).

    centred:     weights minus zero point [oc, products]
    offset:      in accumulator units; not finite where batch norm's gamma is zero [oc]
    factor:      M of docs/arithmetic.md, [oc] or [1]
    input_top:   greatest value of an input
    output_top:  greatest value of an output
    largest:     greatest sum of unsigned products
    """

    centred: np.ndarray
    offset: np.ndarray
    factor: np.ndarray
    input_zero_point: int
    input_top: int
    output_top: int
    largest: int

    def fit(self, left_shift: int) -> FittedSums:
        """The sums at a left shift, each channel as exact as it can be.

        The output of some channels hardly depends on their input (batch norm's gamma is tiny beside
        its beta): their bias leaves int32, or their multiplier has few bits. Their weights are
        halved, which doubles M, or they become constants, whichever moves the output least.
        Channels of zeros are constants, since their M stands for nothing.
        """
        oc = len(self.offset)
        halvings = np.zeros(oc, np.int64)
        positive, negative = self._sums
        bias, error = self._held(slice(None), positive, negative, 0, left_shift)
        lost = np.abs(self.factor) * (positive - negative) * self.input_top
        if self.factor.size < oc:  # one M for the layer: all channels are constants or none
            constant = np.full(oc, np.isinf(error).any() or not lost.any())
            doubtful = np.flatnonzero(constant)
        else:
            coarse = np.abs(self.factor) * 2.0 ** (32 - left_shift) < COARSE_MULTIPLIER
            doubtful = np.flatnonzero(coarse | np.isinf(error) | (lost == 0))
            constant = None
        if not doubtful.size:
            return FittedSums(self.centred, bias, self.factor, np.zeros(oc, bool), error)
        centred = self.centred.copy()
        if constant is None:
            for count in range(1, _MOST_HALVINGS + 1):
                halved = round_half_up(self.centred[doubtful] / 2.0**count).astype(np.int64)
                its_bias, its_error = self._held(doubtful, *_sums(halved), count, left_shift)
                bits_lost = np.abs(self.centred[doubtful] - (halved << count)).sum(axis=1)
                its_error += np.abs(self.factor[doubtful]) * bits_lost * self.input_top
                better = its_error < error[doubtful]
                rows = doubtful[better]
                halvings[rows], centred[rows] = count, halved[better]
                bias[rows], error[rows] = its_bias[better], its_error[better]
            constant = lost <= error
        centred[constant], bias[constant], error[constant] = 0, 0, lost[constant]
        factor = np.where(constant, 0, self.factor * 2.0**halvings)[: self.factor.size]
        return FittedSums(centred, bias, factor, constant, error)

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        return _sums(self.centred)

    def _held(
        self,
        rows: np.ndarray | slice,
        positive: np.ndarray,
        negative: np.ndarray,
        halvings: int,
        left_shift: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(bias, bound on its error and the multiplier's in LSB) of channels, given their `_sums`.

        The error is M / 2^(L+1) from rounding the bias and |v| / 2^33 from rounding the multiplier.
        |v| is taken as that of a typical output, a sixteenth of the range: few are larger, and
        beyond the range all saturate.
        """
        offset = self.offset[rows] * 2.0**-halvings
        bias = offset - self.input_zero_point * (positive + negative)
        reach = np.maximum(
            np.abs(positive * self.input_top + bias), np.abs(negative * self.input_top + bias)
        )
        factor = np.abs(np.broadcast_to(self.factor, len(self.offset))[rows])
        scaled = np.maximum(factor * 2.0 ** (halvings - left_shift), 1e-300)
        fits = (
            (np.abs(bias) <= _INT32_MAX - self.largest)
            & (reach * 2.0**left_shift + 1 <= _INT32_MAX)
            & (scaled * 2.0**32 <= _INT32_MAX)
        )
        value = np.minimum(reach * 2.0**left_shift, self.output_top / 16 / scaled)
        return bias, np.where(fits, scaled / 2 + value * 2.0**-33, np.inf)


def _sums(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the positive and of the negative weights of each channel."""
    return np.maximum(centred, 0).sum(axis=1), np.minimum(centred, 0).sum(axis=1)


def choose_left_shift(sums: LayerSums, what: str) -> tuple[int, FittedSums]:
    """L of docs/arithmetic.md, for a layer, and the sums as they fit it.

    Rounding the bias costs less the greater L, rounding the multiplier more, see `LayerSums`.
    A small error is worth much, because one output rounded differently from fake-quant makes many
    differ in the layers after it, and a channel whose input is mostly zero may round its constant
    differently everywhere. But a shift at all costs two instructions an output, so where a window
    has few products L is 0 unless that matters by itself.

    Raises ConversionError naming `what` where at no shift int32 holds the sums.
    """
    tolerance = 2.0**-17
    unshifted_tolerance = tolerance if sums.centred.shape[1] >= 24 else 2.0**-7
    best, least_error = None, np.inf
    for left_shift in range(31):
        fit = sums.fit(left_shift)
        # A few channels may be bad at every shift; it is chosen for the others too.
        worst, mean = fit.error.max(), fit.error.mean()
        if worst < 0.5 and mean < least_error:
            best, least_error = (left_shift, fit), mean
        enough = tolerance if left_shift else unshifted_tolerance
        if worst <= enough or mean <= enough / 8 or mean > 2 * least_error:
            break  # good enough, or past the best
    if best is None:
        channel = int(np.argmax(fit.error))
        raise ConversionError(
            f"{what}, output channel {channel}: the sum of {sums.centred.shape[1]} products and a "
            f"bias of {sums.offset[channel]:.3g} does not fit 32 bits at an output scale ratio of "
            f"{np.broadcast_to(sums.factor, sums.offset.shape)[channel]:.3g}: the output's range "
            "is too narrow for this layer, or its bias too large; calibrate again"
        )
    return best
