"""What every quantizer keeps, and what each one adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfmix.errors import CalibrationError
from tfmix.fakequant.quantizers import ActivationQuantizer, MinMaxWeightQuantizer, mse_ranges
from tfmix.ir.quant import BIT_WIDTHS, max_level


@dataclass
class Bound:
    """A quantizer with variables of its own, as a layer would hold them."""

    quantizer: Any
    variables: dict[str, tf.Variable]

    @classmethod
    def make(cls, quantizer: Any, shape: tuple[int, ...], bits: int) -> Bound:
        variables = quantizer.build(shape, "name", tf_keras.layers.Layer())
        variables["bits"].assign(bits)
        return cls(quantizer, variables)

    def __call__(self, x: Any, training: bool = False) -> tf.Tensor:
        x = tf.convert_to_tensor(x, tf.float32)
        return self.quantizer(x, training, weights=self.variables)

    def set_range(self, low: float, high: float) -> None:
        self.quantizer.set_ranges(self.variables, [low] * 3, [high] * 3)

    def grid(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(scale, zero_point), each broadcasting against x."""
        if isinstance(self.quantizer, MinMaxWeightQuantizer):
            return integers(self, x)[1:]
        params = self.quantizer.quant_params(self.variables, "x")
        return np.float32(params.scale), np.float32(params.zero_point)


def integers(bound: Bound, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(q, scale, zero_point) of weights, as conversion asks for them."""
    parts = bound.quantizer.quantize(tf.constant(w, tf.float32), bound.variables["bits"])
    return tuple(part.numpy() for part in parts)


def parts_of_one_scale(y: np.ndarray, scale: np.ndarray) -> Iterator[np.ndarray]:
    """The parts of y whose values share a scale; scale broadcasts against y."""
    shape = np.shape(scale) or (1,) * y.ndim
    for index in np.ndindex(*shape):
        yield y[tuple(i if n > 1 else slice(None) for i, n in zip(index, shape, strict=True))]


#: Every quantizer and setting -> the shape of what it quantizes.
QUANTIZERS = {
    "weights per channel": (MinMaxWeightQuantizer(), (3, 3, 5, 4)),
    "weights per layer": (MinMaxWeightQuantizer(per_channel=False), (3, 3, 5, 4)),
    "dense weights per channel": (MinMaxWeightQuantizer(), (20, 7)),
    "depthwise weights per channel": (MinMaxWeightQuantizer(depthwise=True), (3, 3, 5, 2)),
    "depthwise weights per layer": (MinMaxWeightQuantizer(False, depthwise=True), (3, 3, 5, 2)),
    "unsigned activations": (ActivationQuantizer(signed=False), (8, 5, 5, 3)),
    "signed activations": (ActivationQuantizer(signed=True), (8, 5, 5, 3)),
    "activations after ReLU6": (ActivationQuantizer(signed=False, maximum=6.0), (8, 50)),
    "the network's input": (ActivationQuantizer(signed=True, trainable=False), (8, 50)),
}
RANGE = (-1.7, 2.9)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize("name", QUANTIZERS)
class TestEveryQuantizer:
    @pytest.fixture
    def bound(self, name, bits) -> Bound:
        quantizer, shape = QUANTIZERS[name]
        bound = Bound.make(quantizer, shape, bits)
        if isinstance(quantizer, ActivationQuantizer):
            bound.set_range(*RANGE)
        return bound

    @pytest.fixture
    def x(self, name) -> np.ndarray:
        shape = QUANTIZERS[name][1]
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def test_values_lie_on_the_grid(self, bound, x, bits):
        scale, zero_point = bound.grid(x)
        q = bound(x).numpy() / scale + zero_point
        np.testing.assert_allclose(q, np.round(q), atol=1e-4)
        assert q.min() > -0.5
        assert q.max() < max_level(bits) + 0.5

    def test_has_at_most_2_to_the_bits_levels(self, bound, x, bits):
        for part in parts_of_one_scale(bound(x).numpy(), bound.grid(x)[0]):
            assert len(np.unique(part)) <= 2**bits

    def test_zero_is_exact(self, bound, x):
        x[::2] = 0.0
        assert (bound(x).numpy()[::2] == 0.0).all()

    def test_is_idempotent(self, bound, x):
        once = bound(x)
        np.testing.assert_allclose(bound(once), once, rtol=1e-5, atol=1e-6)

    def test_is_off_by_half_a_step_at_most(self, bound, x, bits):
        scale, zero_point = bound.grid(x)
        low, high = -zero_point * scale, (max_level(bits) - zero_point) * scale
        inside = (low <= x) & (x <= high)
        error = np.abs(bound(x).numpy() - x)
        assert (error <= 0.5001 * np.broadcast_to(scale, x.shape))[inside].all()

    def test_gradient_passes_straight_through_inside(self, bound, x):
        x = np.clip(x, -1.0, 2.0) if bound.variables.get("low") is not None else np.abs(x)
        inputs = tf.constant(np.minimum(x, 2.0))
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.reduce_sum(3.0 * bound(inputs))
        assert (tape.gradient(y, inputs).numpy() == 3.0).all()

    def test_bits_switch_without_a_retrace(self, bound, x, bits):
        traces = []

        @tf.function
        def run(value):
            traces.append(1)
            return bound(value)

        expected = bound(x).numpy()
        for other in BIT_WIDTHS:
            bound.variables["bits"].assign(other)
            run(tf.constant(x))
        bound.variables["bits"].assign(bits)
        np.testing.assert_array_equal(run(tf.constant(x)), expected)
        assert len(traces) == 1

    def test_config_round_trip(self, bound):
        quantizer = bound.quantizer
        again = tf_keras.utils.legacy.deserialize_keras_object(
            tf_keras.utils.legacy.serialize_keras_object(quantizer)
        )
        assert type(again) is type(quantizer)
        assert again.get_config() == quantizer.get_config()


# -- weights ------------------------------------------------------------------------------------

weights_only = pytest.mark.parametrize("name", [name for name in QUANTIZERS if "weights" in name])


@weights_only
@pytest.mark.parametrize("bits", BIT_WIDTHS)
class TestWeights:
    @pytest.fixture
    def bound(self, name, bits) -> Bound:
        return Bound.make(*QUANTIZERS[name], bits)

    @pytest.fixture
    def w(self, name) -> np.ndarray:
        """Ranges 64 times apart between channels."""
        rng, shape = np.random.default_rng(0), QUANTIZERS[name][1]
        return (rng.normal(size=shape) * np.geomspace(1, 64, shape[-1])).astype(np.float32)

    def test_stored_integers_are_the_values_of_training(self, bound, w, bits):
        q, scale, zero_point = integers(bound, w)
        np.testing.assert_array_equal(q, np.round(q))
        assert q.min() >= 0
        assert q.max() <= max_level(bits)
        np.testing.assert_array_equal((q - zero_point) * scale, bound(w).numpy())

    def test_ends_of_the_range_are_used(self, bound, w, bits):
        q, _, _ = integers(bound, w)
        assert (q.min(), q.max()) == (0, max_level(bits))

    def test_zero_weights_stay_zero(self, bound, w, bits):
        w[..., 1] = 0.0
        q, _, zero_point = integers(bound, w)
        assert (bound(w).numpy()[..., 1] == 0).all()
        assert (q == np.broadcast_to(zero_point, q.shape))[..., 1].all()
        assert (bound(0 * w).numpy() == 0).all()

    def test_symmetric_ranges_give_no_level_too_many(self, bound, w, bits):
        """Both ends of [-h, h] lie half a step off the grid."""
        w = np.sign(w) * np.float32(0.75)
        q, _, _ = integers(bound, w)
        assert q.min() >= 0
        assert q.max() <= max_level(bits)
        np.testing.assert_allclose(np.abs(bound(w)), 0.75, rtol=0.34)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_zero_is_inside_the_range_of_weights_of_one_sign(self, bound, w, bits, sign):
        _, _, zero_point = integers(bound, sign * (1 + np.abs(w)))
        assert np.unique(zero_point).tolist() == [0 if sign > 0 else max_level(bits)]

    def test_ranges_no_float_can_divide_by_count_as_zero(self, bound, w):
        tiny = w * np.float32(1e-38)
        assert np.isfinite(bound(tiny)).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("weights per channel", (1, 1, 1, 4)),
        ("weights per layer", (1, 1, 1, 1)),
        ("dense weights per channel", (1, 7)),
        ("depthwise weights per channel", (1, 1, 5, 2)),
        ("depthwise weights per layer", (1, 1, 1, 1)),
    ],
)
def test_how_many_ranges(name, expected):
    quantizer, shape = QUANTIZERS[name]
    _, scale, zero_point = quantizer.quantize(tf.ones(shape), 8)
    assert tuple(scale.shape) == tuple(zero_point.shape) == expected


# -- activations --------------------------------------------------------------------------------


def calibrated(bits: int, low: float, high: float, **settings: Any) -> Bound:
    bound = Bound.make(ActivationQuantizer(signed=low < 0, **settings), (None, 4), bits)
    bound.set_range(low, high)
    return bound


@pytest.mark.parametrize("bits", BIT_WIDTHS)
class TestActivations:
    def test_pact_gradient(self, bits):
        """d/d alpha = sum of the gradient where x >= alpha; d/dx = 1 where 0 <= x < alpha."""
        bound = calibrated(bits, 0.0, 2.0)
        x = tf.constant([-1.0, 0.0, 0.5, 1.99, 2.0, 2.5, 100.0])
        upstream = tf.constant([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(upstream * bound(x))
        dx, d_alpha = tape.gradient(y, [x, bound.variables["alpha"]])
        assert dx.numpy().tolist() == [0, 2, 4, 8, 0, 0, 0]
        assert d_alpha.numpy().tolist() == [112.0 if b == bits else 0.0 for b in BIT_WIDTHS]

    def test_signed_gradient(self, bits):
        bound = calibrated(bits, -3.0, 3.0)
        params = bound.quantizer.quant_params(bound.variables, "x")
        low, high = params.dequantize(np.array([0, max_level(bits)]))
        x = tf.constant([low - 1, low, 0.0, high * 0.99, high, high + 1])
        upstream = tf.constant([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(upstream * bound(x))
        variables = [bound.variables["alpha"], bound.variables["low"]]
        dx, d_alpha, d_low = tape.gradient(y, [x, *variables])
        assert dx.numpy().tolist() == [0, 0, 4, 8, 0, 0]
        assert d_alpha.numpy().sum() == 48
        assert d_low.numpy().sum() == 3

    @pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.3, 2.2), (-5.0, 0.0), (-1e-3, 7.0)])
    def test_is_what_the_integer_tensor_holds(self, bits, low, high):
        bound = calibrated(bits, low, high)
        params = bound.quantizer.quant_params(bound.variables, "x")
        x = np.random.default_rng(0).uniform(low - 1, high + 1, 1000).astype(np.float32)
        np.testing.assert_allclose(
            bound(x), params.dequantize(params.quantize(x)), atol=1e-6 * (high - low)
        )

    def test_each_bit_width_has_its_own_range(self, bits):
        bound = calibrated(bits, 0.0, 1.0)
        bound.quantizer.set_ranges(bound.variables, [0.0] * 3, [1.0, 2.0, 3.0])
        assert bound([[99.0]]).numpy() == pytest.approx(1.0 + BIT_WIDTHS.index(bits))

    def test_without_a_range_inference_passes(self, bits):
        bound = Bound.make(ActivationQuantizer(signed=False), (None, 4), bits)
        x = np.array([[0.1, 7.7]], np.float32)
        np.testing.assert_array_equal(bound(x), x)
        with pytest.raises(CalibrationError, match="act: the range .* is not known"):
            bound.quantizer.quant_params(bound.variables, "act")

    def test_the_first_batch_of_training_sets_the_range(self, bits):
        bound = Bound.make(ActivationQuantizer(signed=True), (None, 4), bits)
        first = bound([[-1.0, 0.5, 2.0]], training=True).numpy()
        ranges = bound.variables["alpha"].numpy(), bound.variables["low"].numpy()
        assert (ranges[0] <= 2.0).all()
        assert (ranges[1] >= -1.0).all()
        np.testing.assert_array_equal(bound([[-1.0, 0.5, 2.0]]), first)
        bound([[100.0]], training=True)
        np.testing.assert_array_equal(bound.variables["alpha"], ranges[0])

    def test_a_range_that_is_not_finite_is_an_error(self, bits):
        bound = calibrated(bits, 0.0, np.nan)
        with pytest.raises(CalibrationError, match="act: the range .*nan.* training has diverged"):
            bound.quantizer.quant_params(bound.variables, "act")


def test_alpha_stays_positive_and_below_that_of_relu6():
    bound = calibrated(8, 0.0, 3.0, maximum=6.0)
    constraint = bound.variables["alpha"].constraint
    assert constraint(tf.constant([-1.0, 5.0, 9.0])).numpy().tolist() == pytest.approx([1e-6, 5, 6])


def test_low_stays_negative():
    bound = calibrated(8, -1.0, 3.0)
    constraint = bound.variables["low"].constraint
    assert constraint(tf.constant([-1.0, 1.0])).numpy().tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("trainable", [True, False])
def test_the_range_is_learned_where_asked_for(trainable):
    quantizer = ActivationQuantizer(signed=True, trainable=trainable)
    layer = tf_keras.layers.Layer()
    quantizer.build((None, 4), "x", layer)
    assert len(layer.trainable_weights) == (2 if trainable else 0)


# -- ranges of least error ----------------------------------------------------------------------


def ranges(x: Any, *, signed: bool = False, maximum: float | None = None):
    x = tf.constant(x, tf.float32)
    lows, highs = mse_ranges(x, tf.reduce_min(x), tf.reduce_max(x), signed, maximum)
    return lows.numpy(), highs.numpy()


def test_fewer_bits_take_a_narrower_range():
    lows, highs = ranges(np.random.default_rng(0).normal(size=10_000), signed=True)
    assert (np.diff(highs) > 0).all()
    assert (np.diff(lows) < 0).all()


def test_no_candidate_is_better():
    x = np.random.default_rng(0).exponential(size=5000).astype(np.float32)
    _, highs = ranges(x)
    for bits, high in zip(BIT_WIDTHS, highs, strict=True):

        def error(alpha, bits=bits):
            y = calibrated(bits, 0.0, float(alpha))(x).numpy()
            return float(np.square(y - x).mean())

        candidates = [error(x.max() * n / 64) for n in range(1, 65)]
        assert error(high) == pytest.approx(min(candidates), rel=1e-4)


def test_the_range_never_passes_the_values_or_the_maximum():
    x = np.array([0.0, 3.0, 8.0])
    assert (ranges(x)[1] <= 8.0).all()
    assert (ranges(x, maximum=6.0)[1] <= 6.0).all()


@pytest.mark.parametrize("signed", [True, False])
def test_a_tensor_of_zeros_has_a_range(signed):
    lows, highs = ranges(np.zeros(10), signed=signed)
    assert (highs > 0).all()
    assert (lows <= 0).all()


def test_negative_values_alone():
    lows, highs = ranges(np.linspace(-5, -1, 100), signed=True)
    assert (highs > 0).all()
    assert lows[-1] == pytest.approx(-5, rel=0.1)
