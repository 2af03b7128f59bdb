"""Node by node: how far integers are from fake-quant, and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tf_keras
from keras_models import chain, random_inputs, randomize, small_cnn

import tfmix
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import graph_of
from tfmix.integer.compare import warn_of_differences
from tfmix.integer.model import AddRescale, IntegerNode, IntegerWeights

layers = tf_keras.layers


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    model = small_cnn()
    data = random_inputs(model, 64)
    return tfmix.quantize_model(model, None, calibration_data=data, verbose=0)


def changed(
    model: tfmix.IntegerModel, name: str, change: Callable[[IntegerNode], IntegerNode]
) -> tfmix.IntegerModel:
    """`model` with one node as `change` makes it."""
    nodes = tuple(change(node) if node.name == name else node for node in model.network.nodes)
    return tfmix.IntegerModel(replace(model.network, nodes=nodes))


def with_weights(change: Callable[[IntegerWeights], dict]) -> Callable[[IntegerNode], IntegerNode]:
    return lambda node: replace(node, weights=replace(node.weights, **change(node.weights)))


def test_lists_every_node_in_order(qmodel):
    found = tfmix.compare(qmodel, tfmix.convert(qmodel), random_inputs(qmodel, 4))
    assert [d.node for d in found] == [node.name for node in graph_of(qmodel).steps]
    assert [d.tensor for d in found] == [node.output for node in graph_of(qmodel).steps]
    assert not any(d.reason for d in found)


def test_finds_the_node_that_is_wrong_and_blames_no_other(qmodel):
    wrong = changed(
        tfmix.convert(qmodel), "pw", with_weights(lambda w: {"bias": w.bias + (3 << 20)})
    )
    found = {d.node: d for d in tfmix.compare(qmodel, wrong, random_inputs(qmodel, 8))}
    assert [name for name, d in found.items() if d.max_lsb > 1] == ["pw"]
    assert found["pw"].fraction_different > 0.5


@pytest.mark.parametrize("count", [1, 127, 129])
def test_takes_any_number_of_inputs(qmodel, count):
    for difference in tfmix.compare(qmodel, tfmix.convert(qmodel), random_inputs(qmodel, count)):
        assert difference.max_lsb <= 1
        assert difference.fraction_different < 0.01


def test_needs_a_fake_quant_model(qmodel):
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        tfmix.compare(small_cnn(), tfmix.convert(qmodel), random_inputs(qmodel, 4))


# -- reasons ------------------------------------------------------------------------------------


def constant(w: IntegerWeights) -> dict:
    """Channel 1 becomes its bias."""
    values = w.values.copy()
    values[1] = w.zero_point[1]
    return {"values": values}


def halved(w: IntegerWeights) -> dict:
    """Channel 1's weights lose two bits."""
    values, multiplier, bias = w.values.astype(int), w.multiplier.copy(), w.bias.copy()
    zero_point = int(w.zero_point[1])
    values[1] = np.floor((values[1] - zero_point) / 4 + 0.5) + zero_point
    multiplier[1], bias[1] = multiplier[1] * 4, bias[1] // 4
    return {"values": values.astype(np.uint8), "multiplier": multiplier, "bias": bias}


def coarse(w: IntegerWeights) -> dict:
    """Channel 1's multiplier keeps one bit."""
    multiplier = w.multiplier.copy()
    multiplier[1] = 1 << 3
    return {"multiplier": multiplier}


def shifted(w: IntegerWeights) -> dict:
    """Channel 1's bias counts half steps of the output, and is off by eight of them."""
    multiplier, bias = w.multiplier.copy(), w.bias.copy()
    multiplier[1], bias[1] = 2**31 - 1, bias[1] + 8
    return {"multiplier": multiplier, "bias": bias}


REASONS = {
    "constant": (constant, "the channel is a constant in integers"),
    "weights": (halved, r"its weights gave up 2 bit\(s\), so that its bias fits 32 bits"),
    "multiplier": (coarse, "its multiplier has only 4 bits, because it is small beside"),
    "left shift": (shifted, r"its bias is rounded to steps of 0\.5 LSB at a left shift of"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_says_which_layer_moved_and_why(kind):
    model = chain(layers.Conv2D(3, 3, name="conv"), layers.BatchNormalization(), layers.ReLU())
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.uniform(0.5, 1, variable.shape) * rng.choice([-1, 1], variable.shape))
    model.layers[2].moving_variance.assign(np.ones(3, np.float32))
    x = random_inputs(model, 16)
    q = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    change, reason = REASONS[kind]
    wrong = changed(tfmix.convert(q), "conv", with_weights(change))
    with pytest.warns(tfmix.ConversionWarning, match=reason) as caught:
        warn_of_differences(q, wrong, x)
    (warning,) = caught
    assert warning.filename == __file__
    text = str(warning.message)
    assert text.startswith("conv: integers and fake-quant differ by up to ")
    assert "LSB of re_lu" in text and "(8 bits)" in text and "most in channel 1: " in text


def test_a_node_without_weights():
    model = chain(layers.Conv2D(3, 3, name="conv"), lambda x: layers.Add(name="add")([x, x]))
    x = random_inputs(model, 16)
    q = tfmix.quantize_model(randomize(model), None, calibration_data=x, verbose=0)

    def coarser(node: IntegerNode) -> IntegerNode:
        add: AddRescale = node.add
        return replace(node, add=replace(add, multipliers=(add.multipliers[0], 0)))

    with pytest.warns(tfmix.ConversionWarning, match="add: .* the ratio of its scales"):
        warn_of_differences(q, changed(tfmix.convert(q), "add", coarser), x)


# -- in convert ---------------------------------------------------------------------------------


@pytest.fixture
def compared(monkeypatch) -> list[np.ndarray]:
    """The inputs of every comparison that convert makes."""
    seen: list[np.ndarray] = []
    monkeypatch.setattr(tfmix.api, "warn_of_differences", lambda q, i, x, **_: seen.append(x))
    return seen


def test_convert_compares_on_what_calibrated_the_model(qmodel, compared, tmp_path):
    x = random_inputs(qmodel, 64)
    tfmix.convert(qmodel)
    np.testing.assert_array_equal(compared.pop(), x[:8])
    tfmix.convert(qmodel, (x[5:9], None))
    np.testing.assert_array_equal(compared.pop(), x[5:9])
    qmodel.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    tfmix.convert(loaded)
    assert not compared
    tfmix.convert(loaded, x[:2])
    assert len(compared) == 1


def test_convert_is_silent_where_nothing_moved(qmodel):
    with warnings.catch_warnings():
        warnings.simplefilter("error", tfmix.ConversionWarning)
        tfmix.convert(qmodel, random_inputs(qmodel, 64))


def test_convert_refuses_bad_data(qmodel):
    with pytest.raises(tfmix.CalibrationError, match="is empty"):
        tfmix.convert(qmodel, [])
