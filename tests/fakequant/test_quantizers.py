"""What every quantizer keeps, and what each one adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfmix.errors import CalibrationError, TfmixError
from tfmix.fakequant.quantizers import (
    ACTIVATION_QUANTIZERS,
    FLOAT_BITS,
    WEIGHT_QUANTIZERS,
    ActivationQuantizer,
    LsqActivationQuantizer,
    MinMaxWeightQuantizer,
    WeightQuantizer,
    least_error_grid,
    mse_ranges,
)
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
        if isinstance(self.quantizer, WeightQuantizer):
            return integers(self, x)[1:]
        params = self.quantizer.quant_params(self.variables, "x")
        return np.float32(params.scale), np.float32(params.zero_point)


def integers(bound: Bound, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(q, scale, zero_point) of weights, as conversion asks for them."""
    parts = bound.quantizer.quantize(tf.constant(w, tf.float32), bound.variables)
    return tuple(part.numpy() for part in parts)


def parts_of_one_scale(y: np.ndarray, scale: np.ndarray) -> Iterator[np.ndarray]:
    """The parts of y whose values share a scale; scale broadcasts against y."""
    shape = np.shape(scale) or (1,) * y.ndim
    for index in np.ndindex(*shape):
        yield y[tuple(i if n > 1 else slice(None) for i, n in zip(index, shape, strict=True))]


def every_quantizer() -> Iterator[tuple[str, tuple[Any, tuple[int, ...]]]]:
    """Name of every quantizer and setting, the quantizer, and the shape of what it quantizes."""
    for name, weights in WEIGHT_QUANTIZERS.items():
        yield f"{name} weights per channel", (weights(), (3, 3, 5, 4))
        yield f"{name} weights per layer", (weights(per_channel=False), (3, 3, 5, 4))
        yield f"{name} dense weights per channel", (weights(), (20, 7))
        yield f"{name} depthwise weights per channel", (weights(depthwise=True), (3, 3, 5, 2))
        yield f"{name} depthwise weights per layer", (weights(False, depthwise=True), (3, 3, 5, 2))
    for name, activations in ACTIVATION_QUANTIZERS.items():
        yield f"{name} unsigned activations", (activations(signed=False), (8, 5, 5, 3))
        yield f"{name} signed activations", (activations(signed=True), (8, 5, 4, 4))
        yield f"{name} activations after ReLU6", (activations(signed=False, maximum=6.0), (8, 50))
        yield f"{name} network's input", (activations(signed=True, trainable=False), (8, 50))
        yield f"{name} gate", (activations(signed=False, maximum=1.0, fixed=True), (8, 50))


QUANTIZERS = dict(every_quantizer())
RANGE = (-1.7, 2.9)


def sample(name: str) -> np.ndarray:
    return np.random.default_rng(0).normal(size=QUANTIZERS[name][1]).astype(np.float32)


def ready(name: str, bits: int) -> Bound:
    """The quantizer of that name, its range fitted to `sample(name)` or given."""
    bound = Bound.make(*QUANTIZERS[name], bits)
    if isinstance(bound.quantizer, WeightQuantizer):
        bound.quantizer.init_ranges(bound.variables, sample(name))
    else:
        bound.set_range(*RANGE)
    return bound


@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize("name", QUANTIZERS)
class TestEveryQuantizer:
    @pytest.fixture
    def bound(self, name, bits) -> Bound:
        return ready(name, bits)

    @pytest.fixture
    def x(self, name) -> np.ndarray:
        return sample(name)

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

    def test_gradient_passes_straight_through_inside(self, bound, x, bits):
        scale, zero_point = bound.grid(x)
        low, high = -zero_point * scale, (max_level(bits) - zero_point) * scale
        inputs = tf.constant(np.clip(x, 0.99 * low, 0.99 * high))
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.reduce_sum(3.0 * bound(inputs))
        inside = np.broadcast_to(low < high, x.shape) & ((inputs.numpy() != 0) | (low < 0))
        assert inside.any()
        assert (tape.gradient(y, inputs).numpy()[inside] == 3.0).all()

    def test_above_8_bits_it_passes_unquantized(self, bound, x):
        bound.variables["bits"].assign(FLOAT_BITS)
        inputs = tf.constant(x)
        learned = [v for v in bound.variables.values() if v.trainable]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = bound(inputs, training=True)
        dx, *others = tape.gradient(y, [inputs, *learned])
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(dx, np.ones_like(x))
        for gradient in others:
            assert gradient is None or not np.any(gradient)

    def test_bits_switch_without_a_retrace(self, bound, x, bits):
        traces = []

        @tf.function
        def run(value):
            traces.append(1)
            return bound(value)

        expected = bound(x).numpy()
        for other in (*BIT_WIDTHS, FLOAT_BITS):
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
        fit(bound, w)
        w = w + np.float32(0.3) * w[::-1]  # as after training
        q, scale, zero_point = integers(bound, w)
        np.testing.assert_array_equal(q, np.round(q))
        assert q.min() >= 0
        assert q.max() <= max_level(bits)
        np.testing.assert_array_equal((q - zero_point) * scale, bound(w).numpy())

    def test_zero_weights_stay_zero(self, bound, w, bits):
        w[..., 1] = 0.0
        fit(bound, w)
        q, _, zero_point = integers(bound, w)
        assert (bound(w).numpy()[..., 1] == 0).all()
        assert (q == np.broadcast_to(zero_point, q.shape))[..., 1].all()
        fit(bound, 0 * w)
        assert (bound(0 * w).numpy() == 0).all()

    def test_symmetric_ranges_give_no_level_too_many(self, bound, w, bits):
        """Both ends of [-h, h] lie half a step off the grid."""
        w = np.sign(w) * np.float32(0.75)
        fit(bound, w)
        q, _, _ = integers(bound, w)
        assert q.min() >= 0
        assert q.max() <= max_level(bits)
        np.testing.assert_allclose(np.abs(bound(w)), 0.75, rtol=0.34)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_zero_is_inside_the_range_of_weights_of_one_sign(self, bound, w, bits, sign):
        w = sign * (1 + np.abs(w))
        fit(bound, w)
        _, _, zero_point = integers(bound, w)
        from_end = zero_point if sign > 0 else max_level(bits) - zero_point
        assert from_end.min() >= 0
        # Least error may leave an end unused where few weights happen to fit that grid better.
        assert from_end.max() <= (0 if isinstance(bound.quantizer, MinMaxWeightQuantizer) else 2)

    def test_ranges_no_float_can_divide_by_count_as_zero(self, bound, w):
        tiny = w * np.float32(1e-38)
        fit(bound, tiny)
        assert np.isfinite(bound(tiny)).all()


def fit(bound: Bound, w: np.ndarray) -> None:
    bound.quantizer.init_ranges(bound.variables, w)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if "minmax" in name])
def test_minmax_uses_both_ends_of_the_range(name, bits):
    q, _, _ = integers(ready(name, bits), sample(name))
    assert (q.min(), q.max()) == (0, max_level(bits))


@pytest.mark.parametrize("kind", WEIGHT_QUANTIZERS)
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
def test_how_many_ranges(kind, name, expected):
    bound = ready(f"{kind} {name}", 8)
    _, scale, zero_point = integers(bound, sample(f"{kind} {name}"))
    assert scale.shape == zero_point.shape == expected


# -- learned steps of weights -------------------------------------------------------------------

lsq_weights = pytest.mark.parametrize("name", [n for n in QUANTIZERS if "lsq" in n and "wei" in n])


@lsq_weights
@pytest.mark.parametrize("bits", BIT_WIDTHS)
class TestLearnedWeightSteps:
    def test_gradient_is_the_published_one(self, name, bits):
        """Esser et al. 2020, eq. (3): floor(v + 0.5) - v inside, the limit outside."""
        bound, w = ready(name, bits), 2 * sample(name)
        _, step, zero_point = integers(bound, w)
        upstream = np.random.default_rng(1).normal(size=w.shape).astype(np.float32)
        inputs, log_step = tf.constant(w), bound.variables["log_step"]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.reduce_sum(upstream * bound(inputs))
        dw, d_log_step = tape.gradient(y, [inputs, log_step])
        v, low, high = w / step, -zero_point, max_level(bits) - zero_point
        inside = (low <= v) & (v <= high)
        dy_ds = np.where(inside, np.floor(v + 0.5) - v, np.clip(v, low, high))
        axes = tuple(bound.quantizer.shared_axes(w.ndim))
        scale = 1 / np.sqrt(np.prod([w.shape[a] for a in axes]) * max_level(bits))
        expected = scale * (upstream * dy_ds).sum(axis=axes, keepdims=True) * step
        index = BIT_WIDTHS.index(bits)
        np.testing.assert_allclose(d_log_step[index], expected, rtol=2e-4, atol=1e-5)
        np.testing.assert_array_equal(np.delete(d_log_step, index, axis=0), 0)
        np.testing.assert_array_equal(dw, np.where(inside, upstream, 0))

    def test_outside_the_range_the_gradient_is_that_of_finite_differences(self, name, bits):
        """There y is a smooth function of the step: no straight-through estimate is in it."""
        bound = ready(name, bits)
        w = tf.constant(1e3 * np.sign(sample(name)))
        log_step = bound.variables["log_step"]

        def total() -> tf.Tensor:
            return tf.reduce_sum(bound(w))

        with tf.GradientTape() as tape:
            y = total()
        axes = bound.quantizer.shared_axes(w.shape.rank)
        scale = 1 / np.sqrt(np.prod([w.shape[a] for a in axes]) * max_level(bits))
        found = float(tf.reduce_sum(tape.gradient(y, log_step))) / scale
        log_step.assign_add(tf.fill(log_step.shape, 1e-3))
        above = total()
        log_step.assign_sub(tf.fill(log_step.shape, 2e-3))
        assert found == pytest.approx(float(above - total()) / 2e-3, rel=1e-2, abs=1e-2)

    def test_a_kernel_that_lies_on_the_grid_is_kept_exactly(self, name, bits):
        """As rounding methods leave it: any levels, times the step."""
        bound = ready(name, bits)
        q, step, zero_point = integers(bound, sample(name))
        q = np.random.default_rng(1).integers(0, 2**bits, q.shape).astype(np.float32)
        w = (q - zero_point) * step
        np.testing.assert_array_equal(integers(bound, w)[0], q)
        np.testing.assert_array_equal(bound(w), w)

    def test_fits_its_kernel_better_than_the_full_range(self, name, bits):
        minmax, w = ready(name.replace("lsq", "minmax"), bits), sample(name)
        errors = [np.square(b(w).numpy() - w).sum() for b in (ready(name, bits), minmax)]
        assert errors[0] <= errors[1] * (1 + 1e-6)
        if bits == 2:
            assert errors[0] < 0.9 * errors[1]


def test_least_error_grid_finds_what_all_grids_hold():
    """Against every zero point and 400 steps, at 2 bits."""
    w = np.random.default_rng(0).standard_t(4, (6, 100)).astype(np.float32)
    w[1] = np.abs(w[1])
    w[2] = -np.abs(w[2])

    def error(row, step, z):
        k = np.clip(np.floor(row / step + 0.5), -z, 3 - z)
        return np.square(k * step - row).sum()

    for row, step, z in zip(w, *least_error_grid(w, 2), strict=True):
        tried = np.linspace(0.01, 1, 400) * np.abs(row).max()
        best = min(error(row, s, zero) for s in tried for zero in range(4))
        assert error(row, step, z) <= 1.02 * best


# -- activations --------------------------------------------------------------------------------


def calibrated(
    bits: int, low: float, high: float, kind: type = ActivationQuantizer, **settings: Any
) -> Bound:
    bound = Bound.make(kind(signed=low < 0, **settings), (None, 4), bits)
    bound.set_range(low, high)
    return bound


@pytest.mark.parametrize("kind", ACTIVATION_QUANTIZERS.values())
@pytest.mark.parametrize("bits", BIT_WIDTHS)
class TestActivations:
    @pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.3, 2.2), (-5.0, 0.0), (-1e-3, 7.0)])
    def test_is_what_the_integer_tensor_holds(self, kind, bits, low, high):
        bound = calibrated(bits, low, high, kind)
        params = bound.quantizer.quant_params(bound.variables, "x")
        x = np.random.default_rng(0).uniform(low - 1, high + 1, 1000).astype(np.float32)
        np.testing.assert_allclose(
            bound(x), params.dequantize(params.quantize(x)), atol=1e-6 * (high - low)
        )

    @pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.3, 2.2), (-5.0, 0.0), (-1e-3, 7.0)])
    def test_gives_back_its_ranges(self, kind, bits, low, high):
        bound = calibrated(bits, low, high, kind)
        step = (high - low) / np.array([max_level(b) for b in BIT_WIDTHS])
        lows, highs = bound.quantizer.ranges(bound.variables)
        np.testing.assert_allclose(highs - lows, high - low, rtol=1e-6)
        assert (np.abs(lows - low) <= 0.501 * step).all(), "moved so that zero is exact"

    def test_each_bit_width_has_its_own_range(self, kind, bits):
        bound = calibrated(bits, 0.0, 1.0, kind)
        bound.quantizer.set_ranges(bound.variables, [0.0] * 3, [1.0, 2.0, 3.0])
        assert bound([[99.0]]).numpy() == pytest.approx(1.0 + BIT_WIDTHS.index(bits))

    def test_without_a_range_inference_passes(self, kind, bits):
        bound = Bound.make(kind(signed=False), (None, 4), bits)
        x = np.array([[0.1, 7.7]], np.float32)
        np.testing.assert_array_equal(bound(x), x)
        with pytest.raises(CalibrationError, match="act: the range .* is not known"):
            bound.quantizer.quant_params(bound.variables, "act")

    def test_the_first_batch_of_training_sets_the_range(self, kind, bits):
        bound = Bound.make(kind(signed=True), (None, 4), bits)
        first = bound([[-1.0, 0.5, 2.0]], training=True).numpy()
        lows, highs = bound.quantizer.ranges(bound.variables)
        assert (highs - lows > 0.5).all()
        assert (highs - lows <= 3.001).all()
        np.testing.assert_array_equal(bound([[-1.0, 0.5, 2.0]]), first)
        bound([[100.0]], training=True)
        np.testing.assert_array_equal(bound.quantizer.ranges(bound.variables)[1], highs)

    def test_training_at_float_bits_sets_the_range_too(self, kind, bits):
        bound = Bound.make(kind(signed=True), (None, 4), FLOAT_BITS)
        bound([[-1.0, 0.5, 2.0]], training=True)
        with pytest.raises(TfmixError, match="act: bit-width 32 is not one of"):
            bound.quantizer.quant_params(bound.variables, "act")
        bound.variables["bits"].assign(bits)
        assert bound.quantizer.quant_params(bound.variables, "act").bits == bits

    def test_a_range_that_is_not_finite_is_an_error(self, kind, bits):
        bound = calibrated(bits, 0.0, np.nan, kind)
        with pytest.raises(CalibrationError, match="act: the range .*nan.* training has diverged"):
            bound.quantizer.quant_params(bound.variables, "act")

    def test_a_fixed_range_stays(self, kind, bits):
        bound = Bound.make(kind(signed=False, maximum=1.0, fixed=True), (None, 4), bits)
        x = np.array([[0.0, 0.31, 0.97, 1.0]], np.float32)
        for training in (False, True):
            y = bound(x, training=training).numpy()
            np.testing.assert_allclose(
                y, np.round(x * max_level(bits)) / max_level(bits), rtol=1e-6
            )
        quant = bound.quantizer.quant_params(bound.variables, "gate")
        assert (quant.scale, quant.zero_point) == (pytest.approx(1 / max_level(bits)), 0)
        layer = tf_keras.layers.Layer()
        bound.quantizer.build((None, 4), "x", layer)
        assert layer.trainable_weights == []

    @pytest.mark.parametrize("trainable", [True, False])
    def test_the_range_is_learned_where_asked_for(self, kind, bits, trainable):
        layer = tf_keras.layers.Layer()
        kind(signed=True, trainable=trainable).build((None, 4), "x", layer)
        assert len(layer.trainable_weights) == (2 if trainable else 0)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
class TestPact:
    def test_gradient(self, bits):
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


@pytest.mark.parametrize("bits", BIT_WIDTHS)
@pytest.mark.parametrize("shape", [(4, 6, 8), (50, 5)], ids=str)
@pytest.mark.parametrize("low", [0.0, -1.0], ids=["unsigned", "signed"])
class TestLearnedActivationSteps:
    @pytest.fixture
    def bound(self, low, bits) -> Bound:
        bound = calibrated(bits, low, 2.0, LsqActivationQuantizer)
        if low:  # between two levels, as after training
            bound.variables["zero_point"].assign_add([0.2] * 3)
        return bound

    def test_gradient_is_the_published_one(self, bound, bits, shape, low):
        """Esser et al. 2020, eq. (3), and Bhalgat et al. 2020, eq. (5), beta = -step * z."""
        rng = np.random.default_rng(0)
        x, upstream = rng.normal(size=(2, *shape)).astype(np.float32) * 2
        params = bound.quantizer.quant_params(bound.variables, "x")
        variables = [bound.variables["log_step"]]
        if low:
            variables.append(bound.variables["zero_point"])
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = tf.reduce_sum(upstream * bound(inputs))
        dx, *found = tape.gradient(y, [inputs, *variables])
        v, bottom = x / params.scale, -params.zero_point
        top = max_level(bits) - params.zero_point
        inside = (bottom <= v) & (v <= top)
        dy_ds = np.where(inside, np.floor(v + 0.5) - v, np.clip(v, bottom, top))
        gradient_scale = 1 / np.sqrt(x[0].size * max_level(bits))
        expected = [gradient_scale * params.scale * (upstream * dy_ds).sum()]
        expected.append(-gradient_scale * params.scale * upstream[~inside].sum())
        np.testing.assert_array_equal(dx, np.where(inside, upstream, 0))
        for gradient, value in zip(found, expected[: len(found)], strict=True):
            only = [value if b == bits else 0.0 for b in BIT_WIDTHS]
            np.testing.assert_allclose(gradient, only, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "variable", "of_range"),
    [
        (ActivationQuantizer, "alpha", lambda highs: highs),
        (LsqActivationQuantizer, "log_step", lambda highs: np.log(highs / [3, 15, 255])),
    ],
)
def test_the_range_stays_positive_and_below_that_of_relu6(kind, variable, of_range):
    constraint = calibrated(8, 0.0, 3.0, kind, maximum=6.0).variables[variable].constraint
    wanted = np.array([1e-9, 5.0, 9.0])
    found = constraint(tf.constant(of_range(wanted), tf.float32))
    np.testing.assert_allclose(found, of_range(np.array([1e-6, 5.0, 6.0])), rtol=1e-6)


def test_low_stays_negative():
    constraint = calibrated(8, -1.0, 3.0).variables["low"].constraint
    assert constraint(tf.constant([-1.0, 1.0])).numpy().tolist() == [-1.0, 0.0]


def test_learned_zero_points_stay_on_the_grid():
    variable = calibrated(8, -1.0, 3.0, LsqActivationQuantizer).variables["zero_point"]
    found = variable.constraint(tf.constant([-1.0, 99.0, 99.0]))
    assert found.numpy().tolist() == [0, 15, 99]


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
