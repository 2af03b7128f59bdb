"""The public functions: what they take, what they promise, and what they say when they cannot."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tf_keras
from keras_models import SUPPORTED, chain, random_inputs, randomize, small_cnn

import tfmix
from tfmix.errors import (
    BudgetError,
    CalibrationError,
    ConversionError,
    FormatError,
    TfmixError,
    UnsupportedModelError,
)
from tfmix.fakequant.apply import graph_of, quantizers_of
from tfmix.integer.schedule import schedule_of
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.arena import plan

layers = tf_keras.layers
X = random_inputs(small_cnn(), 32)


def wide_cnn() -> tf_keras.Model:
    """With enough weights and activations for a budget to matter."""
    return randomize(
        chain(
            layers.Conv2D(24, 3, padding="same", activation="relu", name="a"),
            layers.Conv2D(24, 3, padding="same", activation="relu", name="b"),
            layers.Conv2D(48, 3, 2, padding="same", activation="relu", name="c"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(5, name="dense"),
            shape=(16, 17, 3),
        )
    )


def quantize(model: tf_keras.Model | None = None, budget=None, **settings) -> tf_keras.Model:
    return tfmix.quantize_model(model or small_cnn(), budget, verbose=0, **settings)


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    """Calibrated; not to be changed."""
    return quantize(calibration_data=X)


# -- quantize_model -----------------------------------------------------------------------------


def test_the_docstring_of_the_package_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y = np.arange(len(X)) % 5
    qmodel = tfmix.quantize_model(
        small_cnn(), tfmix.Budget(flash="2MB", ram="512kB"), calibration_data=X
    )
    qmodel.compile("adam", "sparse_categorical_crossentropy")
    qmodel.fit(X, y, verbose=0)
    assert tfmix.export(qmodel, "model.tflite") == Path("model.tflite")
    assert tfmix.load("model.tflite") == tfmix.convert(qmodel)


def test_without_a_budget_all_bits_are_eight():
    assert tfmix.get_policy(quantize()) == tfmix.QuantizationPolicy.uniform(small_cnn(), 8)


def test_a_given_policy_is_used():
    policy = tfmix.QuantizationPolicy.uniform(small_cnn(), 4).replace(weights={"pw": 2})
    assert tfmix.get_policy(quantize(policy=policy)) == policy


@pytest.mark.parametrize("weights", ["per_channel", "per_layer"])
@pytest.mark.parametrize("batch_norm", ["icn", "fold"])
def test_flavours(weights, batch_norm):
    qmodel = quantize(weights=weights, batch_norm=batch_norm)
    graph = graph_of(qmodel)
    folded = {node.name for node in graph.weighted_nodes if not node.batch_norm}
    assert ("conv" in folded) == (batch_norm == "fold")
    quantizers = quantizers_of(qmodel).weights.values()
    assert {q.quantizer.per_channel for q in quantizers} == {weights == "per_channel"}


@pytest.mark.parametrize("search", ["auto", "memory"])
def test_searches_that_are_the_same(search):
    budget = tfmix.Budget("10kB", None)
    assert tfmix.get_policy(quantize(wide_cnn(), budget, search=search)) == tfmix.get_policy(
        quantize(wide_cnn(), budget)
    )


def test_verbose_prints_the_report(capsys):
    tfmix.quantize_model(small_cnn(), tfmix.Budget("1MB", None))
    assert "fits the budget" in capsys.readouterr().out
    quantize()
    assert capsys.readouterr().out == ""


def test_pinned_bits_stay():
    pinned = {"weights": {"c": 8, "a": 2}, "activations": {"pool": 4}}
    policy = tfmix.get_policy(quantize(wide_cnn(), tfmix.Budget("15kB", "10kB"), pinned=pinned))
    assert (policy.weight_bits["c"], policy.weight_bits["a"]) == (8, 2)
    assert policy.activation_bits["pool"] == 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weights", "per_row", r"weights 'per_row' is not one of \('per_channel', 'per_layer'\)"),
        ("batch_norm", "none", r"batch_norm 'none' is not one of \('icn', 'fold'\)"),
        ("search", "magic", r"search 'magic' is not one of \('memory'"),
        ("search", ["memory"], r"search \['memory'\] is not a str"),
        ("policy", "8 bits", "policy '8 bits' is not a QuantizationPolicy"),
        ("policy", {"conv": 8}, "policy {'conv': 8} is not a QuantizationPolicy"),
        ("pinned", ["conv"], r"pinned \['conv'\] is not a Mapping"),
        ("pinned", {"weights": 8}, "pinned weights 8 is not a Mapping"),
        ("pinned", {"bits": {}}, "'bits'.* is not one of"),
        ("pinned", {"weights": {"nope": 8}}, "nope"),
        ("pinned", {"weights": {"conv": 3}}, "bit-width 3"),
        ("pinned", {"activations": {"image": 4}}, "always have 8"),
        ("budget", "2MB", "budget '2MB' is not a Budget"),
        ("budget", 2_000_000, "budget 2000000 is not a Budget"),
    ],
)
def test_refuses_arguments(name, value, message):
    arguments = {"budget": None, name: value}
    with pytest.raises(TfmixError, match=message):
        tfmix.quantize_model(small_cnn(), verbose=0, **arguments)


def test_refuses_a_fake_quant_model(qmodel):
    with pytest.raises(TfmixError, match="fake-quant model already; use set_policy"):
        quantize(qmodel)


def test_refuses_a_policy_of_another_network():
    policy = tfmix.QuantizationPolicy.uniform(wide_cnn(), 8)
    with pytest.raises(TfmixError, match="does not belong to this network"):
        quantize(policy=policy)


def test_refuses_data_of_another_shape():
    with pytest.raises(CalibrationError, match="image takes"):
        quantize(calibration_data=X[:, 1:])


def test_refuses_weights_that_are_not_finite():
    model = small_cnn()
    model.get_layer("pw").kernel.assign(model.get_layer("pw").kernel * np.inf)
    with pytest.raises(UnsupportedModelError, match="pw .*kernel holds"):
        quantize(model)


# -- budgets ------------------------------------------------------------------------------------

BUDGETS = {
    "flash": tfmix.Budget("14kB", None),
    "ram": tfmix.Budget(None, "9kB"),
    "layer by layer": tfmix.Budget(None, "9kB", streaming="off"),
    "both": tfmix.Budget("12kB", "8kB"),
    "paper": tfmix.Budget(10_000, 5_000, accounting="paper"),
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("weights", ["per_channel", "per_layer"])
def test_a_budget_is_met(budget, weights, tmp_path):
    budget = BUDGETS[budget]
    data = random_inputs(wide_cnn(), 16)
    qmodel = quantize(wide_cnn(), budget, weights=weights, calibration_data=data)
    report = tfmix.memory_report(qmodel, budget=budget)
    assert report.fits
    alone = replace(budget, streaming="off")
    assert not tfmix.memory_report(
        wide_cnn(), tfmix.QuantizationPolicy.uniform(wide_cnn(), 8), alone, weights=weights
    ).fits
    if budget.accounting == "deployed":
        model = tfmix.convert(qmodel)
        size = tfmix.export(model, tmp_path / "model.tflite").stat().st_size
        assert size == report.flash_bytes
        assert bool(model.network.chains) == bool(report.chains)
        if budget.streaming == "off":
            assert not report.chains
        assert plan(schedule_of(model.network)).total == report.activation_bytes
        assert budget.flash is None or size <= budget.flash
        assert budget.ram is None or report.ram_bytes <= budget.ram


def test_chains_follow_the_budget(tmp_path):
    """That the model was made for, in files too, or another that is given; values stay."""
    data = random_inputs(wide_cnn(), 16)
    budget = tfmix.Budget(None, "9kB")
    qmodel = quantize(wide_cnn(), budget, calibration_data=data)
    bits = tfmix.get_policy(qmodel).activation_bits
    assert set(bits.values()) == {8}
    by_rows, by_layers = (
        tfmix.convert(qmodel, budget=b) for b in (None, tfmix.Budget(None, "1 MB"))
    )
    assert by_rows.network.chains and not by_layers.network.chains
    np.testing.assert_array_equal(by_rows.predict(data), by_layers.predict(data))
    assert tfmix.memory_report(qmodel).chains
    assert not tfmix.memory_report(qmodel, budget=replace(budget, streaming="off")).chains
    assert not tfmix.memory_report(qmodel, accounting="paper").chains
    qmodel.save(tmp_path / "qmodel.keras")
    loaded = tf_keras.models.load_model(tmp_path / "qmodel.keras")
    assert tfmix.convert(loaded).network.chains == by_rows.network.chains
    path = tfmix.export(qmodel, tmp_path / "rows.tflite")
    assert tfmix.load(path).network.chains == by_rows.network.chains
    assert path.stat().st_size == tfmix.memory_report(qmodel).flash_bytes
    other = tfmix.export(qmodel, tmp_path / "layers.tflite", budget=tfmix.Budget())
    assert not tfmix.load(other).network.chains


def test_a_c_network_that_takes_rows(tmp_path):
    """With or without a budget; the arena is the planned one, without the input."""
    data = random_inputs(wide_cnn(), 4)
    qmodel = quantize(wide_cnn(), None, calibration_data=data)
    arenas = []
    for budget in (None, tfmix.Budget(ram=8000)):
        header, *_ = tfmix.export_c(qmodel, tmp_path, name="net", budget=budget, input_by_rows=True)
        text = header.read_text()
        assert "net_feed_row" in text
        (line,) = [line for line in text.splitlines() if line.startswith("#define NET_ARENA_BYTES")]
        arenas.append(int(line.split()[-1]))
    assert arenas[1] <= 8000 < arenas[0]


@pytest.mark.parametrize("accounting", ["deployed", "paper"])
@pytest.mark.parametrize(
    ("limits", "what", "tensor"),
    [({"flash": 1000}, "FLASH", "c"), ({"ram": 1000}, "RAM", "a")],
)
def test_an_impossible_budget_names_the_tensor_and_the_smallest_that_would_do(
    limits, what, tensor, accounting
):
    how = {"accounting": accounting, "streaming": "off"}
    with pytest.raises(BudgetError, match=f"{what}.*{tensor!r}") as error:
        quantize(wide_cnn(), tfmix.Budget(**limits, **how))
    assert error.value.tensor == tensor
    (name,) = limits
    enough = {name: error.value.smallest}
    quantize(wide_cnn(), tfmix.Budget(**enough, **how))
    with pytest.raises(BudgetError):
        quantize(wide_cnn(), tfmix.Budget(**{name: enough[name] - 1}, **how))


def test_an_impossible_budget_with_chains_names_the_smallest_that_would_do():
    with pytest.raises(BudgetError, match=r"step '.+\.\..+' needs") as error:
        quantize(wide_cnn(), tfmix.Budget(ram=1000))
    quantize(wide_cnn(), tfmix.Budget(ram=error.value.smallest))


@pytest.mark.parametrize("what", ["flash", "ram"])
def test_a_given_policy_that_is_over_budget_is_refused(what):
    policy = tfmix.QuantizationPolicy.uniform(wide_cnn(), 8)
    report = tfmix.memory_report(wide_cnn(), policy)
    needed = getattr(report, f"{what}_bytes")
    quantize(wide_cnn(), tfmix.Budget(**{what: needed}, streaming="off"), policy=policy)
    with pytest.raises(BudgetError, match=f"the policy takes {needed:,} B of") as error:
        quantize(wide_cnn(), tfmix.Budget(**{what: needed - 1}, streaming="off"), policy=policy)
    assert error.value.smallest == needed


def test_a_budget_nobody_can_meet_with_pinned_bits():
    pinned = {"weights": dict.fromkeys("abc", 8)}
    with pytest.raises(BudgetError):
        quantize(wide_cnn(), tfmix.Budget("10kB", None), pinned=pinned)


# -- memory_report ------------------------------------------------------------------------------


@pytest.mark.parametrize("accounting", ["deployed", "paper"])
@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_the_report_is_the_same_of_float_and_fake_quant(accounting, bits):
    policy = tfmix.QuantizationPolicy.uniform(small_cnn(), bits)
    for flavour in ({}, {"weights": "per_layer"}, {"batch_norm": "fold", "weights": "per_layer"}):
        expected = tfmix.memory_report(small_cnn(), policy, accounting=accounting, **flavour)
        qmodel = quantize(policy=policy, **flavour)
        assert tfmix.memory_report(qmodel, accounting=accounting) == expected


def test_the_report_follows_the_bits(qmodel):
    reports = [
        tfmix.memory_report(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
        for bits in BIT_WIDTHS
    ]
    assert reports[0].flash_bytes < reports[1].flash_bytes < reports[2].flash_bytes
    assert reports[0].ram_bytes < reports[1].ram_bytes < reports[2].ram_bytes
    assert tfmix.memory_report(qmodel) == reports[2]


def test_the_report_takes_a_graph(qmodel):
    policy = tfmix.get_policy(qmodel)
    assert tfmix.memory_report(graph_of(qmodel), policy) == tfmix.memory_report(qmodel)


def test_the_report_compares_with_the_budget_in_its_accounting(qmodel):
    budget = tfmix.Budget("1MB", "1MB", accounting="paper")
    assert tfmix.memory_report(qmodel, budget=budget).flash_bytes == (
        tfmix.memory_report(qmodel, accounting="paper").flash_bytes
    )
    assert tfmix.memory_report(qmodel, budget=budget).fits
    assert not tfmix.memory_report(qmodel, budget=tfmix.Budget(10, 10)).fits


def test_the_report_prints_a_table(qmodel):
    text = str(tfmix.memory_report(qmodel, budget=tfmix.Budget("1MB", None)))
    for part in ("conv", "dense_softmax", "<- peak", "FLASH", "RAM", "fits the budget"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "float model needs a policy"),
        ({"policy": "8"}, "policy '8' is not a QuantizationPolicy"),
        ({"budget": "2MB"}, "budget '2MB' is not a Budget"),
        ({"accounting": "guess"}, r"accounting 'guess' is not one of \('deployed', 'paper'\)"),
        ({"weights": "per_row"}, "weights 'per_row' is not one of"),
        ({"batch_norm": "none"}, "batch_norm 'none' is not one of"),
    ],
)
def test_the_report_refuses(arguments, message):
    model = small_cnn()
    if arguments and "policy" not in arguments:
        arguments = {"policy": tfmix.QuantizationPolicy.uniform(model, 8), **arguments}
    with pytest.raises(TfmixError, match=message):
        tfmix.memory_report(model, **arguments)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.h5", "model.h5: no such file"),
        (None, "neither a tf_keras.Model nor a Graph"),
        (5, "neither a tf_keras.Model nor a Graph"),
    ],
)
def test_the_report_needs_a_model(model, message):
    with pytest.raises(TfmixError, match=message):
        tfmix.memory_report(model, tfmix.QuantizationPolicy.uniform(small_cnn(), 8))


# -- convert, export, load ----------------------------------------------------------------------


def test_exporting_a_fake_quant_model_converts_it(qmodel, tmp_path):
    for name, model in (("a", qmodel), ("b", tfmix.convert(qmodel))):
        assert tfmix.export(model, tmp_path / name) == tmp_path / name
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert tfmix.load(tmp_path / "a") == tfmix.convert(qmodel)
    assert tfmix.load(str(tmp_path / "a")) == tfmix.convert(qmodel)


@pytest.mark.parametrize("bits", BIT_WIDTHS)
def test_conversion_follows_the_bits_now_set(bits):
    qmodel = quantize(calibration_data=X)
    tfmix.set_policy(qmodel, tfmix.QuantizationPolicy.uniform(qmodel, bits))
    model = tfmix.convert(qmodel)
    assert {node.weights.bits for node in model.network.nodes if node.name == "pw"} == {bits}
    assert model.quantization["pw"].bits == bits
    assert (model.quantization["image"].bits, model.quantization["dense"].bits) == (8, 8)


@pytest.mark.parametrize("function", [tfmix.convert, lambda m: tfmix.export(m, os.devnull)])
@pytest.mark.parametrize("model", [small_cnn, lambda: "model", lambda: None])
def test_only_fake_quant_models_are_converted(function, model):
    with pytest.raises(TfmixError, match="not a fake-quant model; make one with"):
        function(model())


def _uncalibrated() -> tf_keras.Model:
    return quantize()


def _nan_weights() -> tf_keras.Model:
    qmodel = quantize(calibration_data=X)
    kernel = quantizers_of(qmodel).weights["pw"].kernel
    kernel.assign(kernel * np.nan)
    return qmodel


def _too_wide() -> tf_keras.Model:
    model = randomize(chain(layers.Dense(1, name="wide"), shape=(33_026,)))
    return quantize(model, calibration_data=random_inputs(model, 2))


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (_uncalibrated, CalibrationError),
        (_nan_weights, UnsupportedModelError),
        (_too_wide, ConversionError),
        (small_cnn, TfmixError),
    ],
)
def test_nothing_is_written_on_error(build, error, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")
    with pytest.raises(error):
        tfmix.export(build(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert path.read_bytes() == b"an older file"


def test_a_directory_that_is_not_there(qmodel, tmp_path):
    with pytest.raises(TfmixError, match="no directory"):
        tfmix.export(qmodel, tmp_path / "nowhere" / "model.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"TFL3" * 100,
        lambda content: b"\x89PNG\r\n\x1a\n" + bytes(64),
    ],
    ids=["truncated", "empty", "foreign", "a picture"],
)
def test_a_damaged_file_is_not_loaded(qmodel, tmp_path, damage):
    path = tfmix.export(qmodel, tmp_path / "model.tflite")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match="model.tflite"):
        tfmix.load(path)


def test_a_file_that_is_not_there():
    with pytest.raises(FormatError, match="No such file"):
        tfmix.load("/no/such/file.tflite")


# -- check and errors ---------------------------------------------------------------------------


def test_check_of_what_is_supported_is_empty():
    assert tfmix.check(SUPPORTED["small CNN"]()) == []


def test_a_fake_quant_model_can_be_checked(qmodel):
    assert tfmix.check(qmodel) == []


@pytest.mark.parametrize(
    "error",
    [BudgetError, CalibrationError, ConversionError, FormatError, UnsupportedModelError],
)
def test_every_error_is_a_tfmix_error_and_a_value_error(error):
    assert issubclass(error, TfmixError)
    assert issubclass(error, ValueError)
    assert getattr(tfmix, error.__name__) is error


def test_all_public_names_are_there():
    for name in tfmix.__all__:
        assert getattr(tfmix, name) is not None
