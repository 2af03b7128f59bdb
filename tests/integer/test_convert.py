"""Fake-quant model -> integers: within one step at every node, whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras
from graphs import GraphBuilder
from keras_models import (
    SUPPORTED,
    chain,
    functional,
    quantized,
    random_inputs,
    randomize,
    small_cnn,
)
from random_networks import random_policy

import tfmix
from tfmix.errors import CalibrationError, ConversionError, UnsupportedModelError
from tfmix.export.flatbuffer import file_size, serialize
from tfmix.fakequant.apply import graph_of, quantizers_of
from tfmix.fakequant.layerwise import Layerwise
from tfmix.integer.convert import (
    LayerSums,
    _Lowering,
    choose_left_shift,
    fixed_point,
    skeleton,
)
from tfmix.integer.model import IntegerNode, IntegerWeights, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.integer.validate import check_model
from tfmix.ir.quant import BIT_WIDTHS, QuantParams, max_level
from tfmix.ir.schedule import schedule

layers = tf_keras.layers

#: (weights, batch_norm) as quantize_model takes them.
FLAVOURS = {
    "PL+FB": ("per_layer", "fold"),
    "PL+ICN": ("per_layer", "icn"),
    "PC+FB": ("per_channel", "fold"),
    "PC+ICN": ("per_channel", "icn"),
}


def quantize(
    model: tf_keras.Model, data: np.ndarray, bits: int = 8, flavour: str = "PC+ICN"
) -> tf_keras.Model:
    weights, batch_norm = FLAVOURS[flavour]
    return tfmix.quantize_model(
        model,
        None,
        policy=tfmix.QuantizationPolicy.uniform(model, bits),
        calibration_data=data,
        weights=weights,
        batch_norm=batch_norm,
        verbose=0,
    )


def worst_difference(qmodel: tf_keras.Model, x: np.ndarray) -> float:
    """In steps of the output of a node."""
    return max(d.max_lsb for d in tfmix.compare(qmodel, tfmix.convert(qmodel), x))


def weights_of(qmodel: tf_keras.Model, name: str) -> IntegerWeights:
    (node,) = [node for node in tfmix.convert(qmodel).network.nodes if node.name == name]
    return node.weights


# -- every layer --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", SUPPORTED)
def test_every_layer(case, seed):
    """At random bits: near the fake-quant model, the same in C, of the size and the schedule that
    were foretold."""
    model, qmodel = quantized(case)
    policy = random_policy(model, seed)
    tfmix.set_policy(qmodel, policy)
    integer = tfmix.convert(qmodel)
    check_model(integer.network)
    x = random_inputs(model, 8, seed=1)
    assert max(d.max_lsb for d in tfmix.compare(qmodel, integer, x)) <= 1
    in_c, expected = integer.tensors(x), integer.tensors(x, backend="reference")
    for name, values in expected.items():
        np.testing.assert_array_equal(in_c[name], values, err_msg=name)
    graph = graph_of(qmodel)
    foretold = skeleton(graph, policy, per_channel=True)
    assert file_size(foretold) == len(serialize(integer.network))
    assert schedule_of(foretold) == schedule_of(integer.network)
    assert schedule_of(integer.network) == schedule(graph, policy.activation_bits)


# -- flavours and weights that break converters -------------------------------------------------

#: Per channel: (gamma, beta, variance, scale of the kernel).
HARD_CHANNELS = np.array(
    [
        (1.0, 0.0, 1.0, 1.0),
        (-1.0, 0.5, 1.0, 1.0),  # negative gamma
        (0.0, 0.7, 1.0, 1.0),  # gamma of zero: a constant
        (0.0, -0.7, 1.0, 1.0),
        (0.0, 0.0, 1.0, 1.0),
        (1e-3, 0.5, 1.0, 1.0),  # ever smaller gammas
        (-1e-5, 0.5, 1.0, 1.0),
        (1e-8, 0.5, 1.0, 1.0),
        (1e-12, 0.5, 1.0, 1.0),
        (1e-30, 0.5, 1.0, 1.0),
        (0.1, 0.5, 0.0, 1.0),  # variance of zero, and below epsilon
        (0.1, 0.5, 1e-7, 0.05),
        (1.0, 0.5, 1.0, 0.0),  # channel of zeros
        (1.0, 0.5, 0.0, 0.0),
        (1.0, 0.5, 1.0, 64.0),  # ranges far apart
        (1.0, -0.5, 1.0, 1.0 / 64),
    ]
)
CHANNELS = len(HARD_CHANNELS)
HARD_LAYERS = {
    "conv2d": (lambda: layers.Conv2D(CHANNELS, 3, padding="same", name="layer"), (6, 5, 4)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=4, name="layer"), (6, 5, 4)),
    "dense": (lambda: layers.Dense(CHANNELS, name="layer"), (23,)),
    "pixels": (lambda: layers.Dense(CHANNELS, name="layer"), (6, 5, 4)),
}


def hard_model(kind: str) -> tf_keras.Model:
    build, shape = HARD_LAYERS[kind]
    model = chain(build(), layers.BatchNormalization(name="bn"), shape=shape)
    gamma, beta, variance, spread = HARD_CHANNELS.T
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=model.get_layer("layer").weights[0].shape)
    spread = spread.reshape(kernel.shape[2:]) if kind == "depthwise" else spread
    kernel *= spread / np.sqrt(kernel.size / CHANNELS)
    model.get_layer("layer").set_weights([kernel, rng.normal(size=CHANNELS) / 4])
    model.get_layer("bn").set_weights([gamma, beta, rng.normal(size=CHANNELS) / 4, variance])
    return model


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("kind", HARD_LAYERS)
class TestHardWeights:
    @pytest.fixture(scope="class")
    def models(self) -> dict[tuple[str, str], tf_keras.Model]:
        return {}

    @pytest.fixture
    def qmodel(self, models, kind, flavour) -> tf_keras.Model:
        if (kind, flavour) not in models:
            model = hard_model(kind)
            models[kind, flavour] = quantize(model, random_inputs(model, 64), flavour=flavour)
        return models[kind, flavour]

    @pytest.mark.parametrize("bits", BIT_WIDTHS)
    def test_is_within_one_step_of_fake_quant(self, qmodel, bits):
        tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
        assert worst_difference(qmodel, random_inputs(qmodel, 32, seed=1)) <= 1

    def test_keeps_as_many_constants_as_its_flavour_has(self, qmodel, flavour):
        weights = weights_of(qmodel, "layer")
        per_channel = flavour.startswith("PC")
        assert weights.per_channel == per_channel
        assert len(weights.zero_point) == (CHANNELS if per_channel else 1)
        assert len(weights.multiplier) == (1 if flavour == "PL+FB" else CHANNELS)
        assert len(weights.bias) == CHANNELS

    def test_stores_the_integers_of_training(self, qmodel, kind):
        """In all channels but those whose gamma is next to nothing."""
        tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, 8))
        bound = quantizers_of(qmodel).weights["layer"]
        q = bound.quantizer.quantize(bound.kernel, bound.variables)[0].numpy().reshape(-1, CHANNELS)
        values = weights_of(qmodel, "layer").values
        stored = values if kind == "depthwise" else np.moveaxis(values, 0, -1)
        ordinary = np.abs(HARD_CHANNELS[:, 0]) >= 0.1
        np.testing.assert_array_equal(stored.reshape(-1, CHANNELS)[:, ordinary], q[:, ordinary])


def test_negative_gamma_gives_a_negative_multiplier():
    model = hard_model("conv2d")
    multiplier = weights_of(quantize(model, random_inputs(model, 64)), "layer").multiplier
    ordinary = np.abs(HARD_CHANNELS[:, 0]) >= 1e-3
    np.testing.assert_array_equal(
        np.sign(multiplier)[ordinary], np.sign(HARD_CHANNELS[:, 0])[ordinary]
    )


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_gamma_of_zero_gives_a_constant(bits):
    model = hard_model("conv2d")
    integer = tfmix.convert(quantize(model, random_inputs(model, 64), bits))
    y = integer.predict(np.random.default_rng(2).normal(size=(16, *model.input_shape[1:])) * 100)
    output = integer.quantization["bn"]
    for channel in np.flatnonzero(HARD_CHANNELS[:, 0] == 0):
        beta = HARD_CHANNELS[channel, 1]
        assert np.unique(y[..., channel]) == pytest.approx(beta, abs=0.51 * output.scale)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("products", [9, 4608])
def test_gammas_from_one_down_to_nothing_beside_a_large_beta(products, flavour):
    """Their biases leave int32 long before their sums stop to matter."""
    shape = (3, 3, products // 9)
    gammas = np.geomspace(1e-12, 1, 49)
    model = chain(
        layers.Conv2D(49, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        shape=shape,
    )
    kernel = np.random.default_rng(0).normal(size=(3, 3, shape[2], 49)) / np.sqrt(products)
    model.layers[1].set_weights([kernel])
    model.layers[2].set_weights([gammas, np.full(49, 2.0), np.zeros(49), np.ones(49)])
    x = random_inputs(model, 32)
    assert worst_difference(quantize(model, x, flavour=flavour), x) <= 1


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_tiny_weights_beside_an_ordinary_bias(flavour):
    """One multiplier cannot serve constants and sums: per layer, all channels are constants."""
    model = chain(layers.Dense(4, name="layer"), shape=(8,))
    kernel = np.random.default_rng(0).normal(size=(8, 4)) * 1e-9
    model.layers[1].set_weights([kernel, np.array([1.0, 0.0, -1.0, 0.5])])
    x = random_inputs(model, 16)
    qmodel = quantize(model, x, flavour=flavour)
    assert worst_difference(qmodel, x) <= 1
    foretold = skeleton(
        graph_of(qmodel), tfmix.get_policy(qmodel), per_channel=flavour.startswith("PC")
    )
    assert file_size(foretold) == len(serialize(tfmix.convert(qmodel).network))


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_a_batch_norm_that_stands_alone(bits):
    gamma, beta, variance, _ = HARD_CHANNELS.T
    model = chain(
        layers.ReLU(),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(0.6),
        shape=(5, 6, CHANNELS),
    )
    model.layers[2].set_weights([gamma, beta, np.linspace(-1, 1, CHANNELS), variance])
    x = random_inputs(model, 32)
    qmodel = quantize(model, x, bits)
    assert worst_difference(qmodel, x) <= 1
    weights = weights_of(qmodel, "bn")
    assert (weights.bits, weights.per_channel, weights.zero_point.tolist()) == (2, False, [0])
    assert set(weights.values.ravel()) <= {0, 1}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_whole_of_a_small_network(flavour):
    model = small_cnn()
    x = random_inputs(model, 64)
    qmodel = quantize(model, x, flavour=flavour)
    assert worst_difference(qmodel, x) <= 1
    expected, found = qmodel.predict(x, verbose=0), tfmix.convert(qmodel).predict(x)
    np.testing.assert_allclose(found, expected, atol=0.03)


# -- the accumulator ----------------------------------------------------------------------------


def wide_dense(inputs: int, bits: int) -> tf_keras.Model:
    model = randomize(chain(layers.Dense(1, name="wide"), shape=(inputs,)))
    x = np.abs(random_inputs(model, 4))  # a zero point of 0 leaves room for the bias
    return quantize(model, x, bits)


def test_too_many_products_for_the_accumulator_are_refused():
    with pytest.raises(ConversionError, match="wide: 33026 products of 8 by 8 bits .* 33025"):
        tfmix.convert(wide_dense(33_026, bits=8))


@pytest.mark.parametrize("bits", [2, 4])
def test_fewer_bits_allow_more_products(bits):
    qmodel = wide_dense(40_000, bits)
    assert worst_difference(qmodel, np.abs(random_inputs(qmodel, 4))) <= 1


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_no_input_can_overflow(bits):
    """The bounds of docs/arithmetic.md, from the stored integers themselves."""
    for kind in HARD_LAYERS:
        model = hard_model(kind)
        integer = tfmix.convert(quantize(model, random_inputs(model, 64), bits))
        (node,) = integer.network.nodes
        top = max_level(integer.quantization[node.inputs[0]].bits)
        low, high = _extreme_sums(node, top)
        bias, shift = node.weights.bias.astype(np.int64), node.weights.left_shift
        for extreme in (low, high):
            assert np.abs((extreme << shift) + bias).max() < 2**31
        products = node.weights.values.size // CHANNELS
        unsigned = products * top * max_level(bits)
        assert unsigned + np.abs(bias).max() / 2**shift < 2**31


def _extreme_sums(node: IntegerNode, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest sum of products of each channel."""
    w = node.weights
    values = w.values.astype(np.int64)
    depthwise = node.kernel is Kernel.DEPTHWISE_CONV2D
    by_channel = values.reshape(-1, CHANNELS).T if depthwise else values.reshape(CHANNELS, -1)
    centred = by_channel - w.zero_point.astype(np.int64)[:, None]
    return np.minimum(centred, 0).sum(1) * top, np.maximum(centred, 0).sum(1) * top


# -- fixed point --------------------------------------------------------------------------------


def sums(factor: list[float], offset: list[float], products: int = 1, seed: int = 0) -> LayerSums:
    """Of 8-bit weights and inputs, random."""
    rng = np.random.default_rng(seed)
    return LayerSums(
        centred=rng.integers(-128, 128, (len(factor), products)),
        offset=np.array(offset, float),
        factor=np.array(factor, float),
        input_zero_point=int(rng.integers(256)),
        input_top=255,
        output_top=255,
        largest=products * 255 * 255,
    )


@pytest.mark.parametrize("seed", range(50))
def test_the_left_shift_keeps_everything_in_32_bits(seed):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=8) * 10.0 ** rng.uniform(-12, 0)
    offset = rng.normal(size=8) * 100 / factor
    shift, fit = choose_left_shift(sums(factor, offset, 30, seed), "layer")
    v = (fit.centred @ rng.integers(0, 256, (30, 1000)) + fit.bias[:, None]) * 2.0**shift
    assert np.abs(v).max() < 2**31
    assert np.abs(fit.factor).max() / 2**shift < 0.5
    assert fit.error.max() < 0.5


@pytest.mark.parametrize(("products", "unshifted"), [(1, 2.0**-7), (24, 2.0**-17)])
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 0.1, 0.4])
def test_the_left_shift_is_the_least_that_is_accurate_enough(factor, products, unshifted):
    layer = sums([factor], [100.0], products)
    shift, fit = choose_left_shift(layer, "layer")
    errors = [layer.fit(candidate).error.max() for candidate in range(31)]
    assert fit.error.max() == errors[shift]
    tolerance = 2.0**-17 if shift else unshifted
    assert errors[shift] <= max(tolerance, 1.2 * min(errors))
    assert errors[0] > unshifted or shift == 0
    assert all(error > tolerance for error in errors[:shift])


def test_a_channel_gives_up_bits_of_its_weights_for_its_bias_and_no_other_does():
    layer = sums([1e-3, 1e-6, 1e-3], [10.0, 3e9, -10.0], products=24)
    fit = layer.fit(left_shift=4)
    np.testing.assert_array_equal(fit.centred[::2], layer.centred[::2])
    assert not fit.constant.any()
    halvings = int(np.log2(fit.factor[1] / layer.factor[1]))
    assert halvings > 0
    np.testing.assert_array_equal(fit.centred[1], np.floor(layer.centred[1] / 2**halvings + 0.5))
    assert fit.error[1] < 0.1


def test_the_scale_of_a_channel_of_zeros_does_not_count():
    """It is arbitrary: here it would take all the bits that the other channel's bias needs."""
    layer = sums([1e-3, 1e5], [1e6, 1e-3], products=24)
    layer.centred[1] = 0
    shift, fit = choose_left_shift(layer, "layer")
    assert shift < 10
    assert fit.constant.tolist() == [False, True]


def test_a_channel_without_a_finite_offset_is_a_constant():
    shift, fit = choose_left_shift(sums([1e-3, 0.0], [0.0, np.inf], products=24), "layer")
    assert fit.constant.tolist() == [False, True]
    assert (fit.centred[1] == 0).all()


@pytest.mark.parametrize(
    ("factor", "offset"), [(1e6, 0.0), (1.0, 1e12)], ids=["narrow output", "large bias"]
)
def test_a_layer_that_32_bits_do_not_hold_is_named(factor, offset):
    with pytest.raises(ConversionError, match="layer, output channel 0: .* 100 products .* again"):
        choose_left_shift(sums([factor], [offset], products=100), "layer")


@pytest.mark.parametrize("factor", [1e-9, 0.3, 0.5, 1.0, 77.7, 1e6])
def test_fixed_point(factor):
    multiplier, shift = fixed_point(np.array(factor), "node")
    assert int(multiplier) * 2.0 ** (shift - 32) == pytest.approx(factor, rel=1e-8, abs=2**-33)
    assert shift == 0 or factor * 2.0 ** (33 - shift) >= 2**31


@pytest.mark.parametrize(("factor", "message"), [(2.0**31, "too large"), (np.inf, "not finite")])
def test_fixed_point_refuses(factor, message):
    with pytest.raises(ConversionError, match=f"node: scale ratio .* {message}"):
        fixed_point(np.array(factor), "node")


def rescaling_model(kind: str) -> tf_keras.Model:
    def build(x):
        y = layers.Dense(3, activation="relu", name="in")(x)
        return {
            "add": lambda: layers.Add(name="out")([y, y]),
            "concatenate": lambda: layers.Concatenate(name="out")([y, y]),
            "average_pool": lambda: layers.AveragePooling2D(name="out")(y),
            "relu": lambda: layers.ReLU(1.0, name="out")(y),
        }[kind]()

    return functional(build)


@pytest.mark.parametrize("kind", ["add", "concatenate", "average_pool", "relu"])
@pytest.mark.parametrize(("alpha_in", "alpha_out"), [(1e-3, 1e8), (1e3, 1e-6)])
def test_scales_far_apart_are_bridged_or_the_layer_is_named(kind, alpha_in, alpha_out):
    model = rescaling_model(kind)
    x = random_inputs(model, 8)
    qmodel = quantize(model, x)
    activations = quantizers_of(qmodel).activations
    for name, alpha in (("in", alpha_in), ("out", alpha_out)):
        bound = activations[name]
        bound.quantizer.set_ranges(bound.variables, [0.0] * 3, [alpha] * 3)
    try:
        assert worst_difference(qmodel, x) <= 1
    except ConversionError as error:
        assert "out" in str(error)
        assert "scale ratio" in str(error)


@pytest.mark.parametrize("bits", [(2, 2, 2), (2, 4, 2), (4, 2, 4), (2, 8, 4)])
def test_sums_on_a_tie_are_rounded_as_in_training(bits):
    """The output's step puts one pair of inputs on a tie, as far as float32 can say: training of
    few bits ends there."""
    names = ("a", "b", "sum")

    def build(x):
        a, b = (layers.Dense(3, name=name)(x) for name in names[:2])
        return layers.Dense(2)(layers.Add(name="sum")([a, b]))

    model = functional(build)
    qmodel = quantize(model, random_inputs(model, 8))
    tfmix.set_policy(
        qmodel,
        tfmix.get_policy(qmodel).replace(activations=dict(zip(names, bits, strict=True))),
    )
    bound = quantizers_of(qmodel).activations
    run = Layerwise(qmodel)
    (node,) = [node for node in run.graph.nodes if node.name == "sum"]
    for seed in range(40):
        rng = np.random.default_rng((seed, *bits))

        def set_step(name: str, step: float) -> QuantParams:
            quantizer, variables = bound[name].quantizer, bound[name].variables
            levels = max_level(int(variables["bits"]))
            low = -(levels // 2) * step
            quantizer.set_ranges(variables, [low] * 3, [low + levels * step] * 3)
            return quantizer.quant_params(variables, name)

        inputs = [set_step(name, rng.uniform(0.3, 1.0)) for name in names[:2]]
        grids = [q.dequantize(np.arange(max_level(q.bits) + 1)) for q in inputs]
        sums = np.add.outer(*grids)
        chosen = sums.flat[np.abs(sums).argmax()] if seed % 2 else rng.choice(sums[sums > 0.1])
        output = set_step("sum", abs(float(chosen)) / (0.5 + rng.integers(max_level(bits[2]) // 2)))

        values = [
            run.quantize(name, np.repeat(grid, len(grids[1])))
            if name == "a"
            else run.quantize(name, np.tile(grid, len(grids[0])))
            for name, grid in zip(names, grids, strict=False)
        ]
        expected = output.quantize(run.run(node, *values).numpy())
        (add,) = [n.add for n in tfmix.convert(qmodel).network.nodes if n.name == "sum"]
        q_a, q_b = (q.quantize(v).astype(int) for q, v in zip(inputs, values, strict=True))
        sums = q_a * add.multipliers[0] + q_b * add.multipliers[1] + add.offset
        wrong = []
        for more in (0, *range(-50, 51)):
            found = ((sums + more) >> add.shift) + output.zero_point
            wrong.append((np.clip(found, 0, max_level(output.bits)) != expected).sum())
        # Of two pairs on one tie float32 may round one up and one down: at four values there is
        # no second.
        assert wrong[0] <= (0 if bits == (2, 2, 2) else 1)
        assert wrong[0] == min(wrong)


# -- what conversion needs ----------------------------------------------------------------------


def test_an_unknown_range_names_the_tensor():
    qmodel = tfmix.quantize_model(small_cnn(), None, verbose=0)
    with pytest.raises(CalibrationError, match="image: the range .* not known"):
        tfmix.convert(qmodel)


def test_weights_that_training_has_ruined_are_named():
    qmodel = quantize(small_cnn(), random_inputs(small_cnn(), 16))
    kernel = quantizers_of(qmodel).weights["pw"].kernel
    kernel.assign(kernel * np.nan)
    with pytest.raises(UnsupportedModelError, match="pw .*kernel holds 36 NaN"):
        tfmix.convert(qmodel)


def test_converting_changes_nothing():
    qmodel = quantize(small_cnn(), random_inputs(small_cnn(), 16))
    before = [w.copy() for w in qmodel.get_weights()]
    first, second = tfmix.convert(qmodel), tfmix.convert(qmodel)
    assert first == second
    for a, b in zip(before, qmodel.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("scale", "message"), [(1e3, "too large"), (1e-6, "too small")])
def test_a_product_out_of_reach_is_refused(scale, message):
    builder = GraphBuilder(4, 4, 8)
    builder.multiply("product", "input", "input")
    quants = {"input": QuantParams(scale, 128, 8), "product": QuantParams(1.0, 128, 8)}
    lowering = _Lowering(builder.graph(), quants)
    with pytest.raises(ConversionError, match=f"product of the inputs: .* {message} for 32 bits"):
        lowering.network(lambda node: None)
