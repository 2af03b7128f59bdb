"""Rounding learned block by block: what it gains, what it writes, and that it can be resumed."""

from __future__ import annotations

import itertools

import graphs
import numpy as np
import pytest
import tf_keras
from keras_models import chain, functional, random_inputs
from random_networks import random_model, random_policy

import tfmix
from tfmix.errors import CalibrationError, TfmixError
from tfmix.fakequant import rounding
from tfmix.fakequant.apply import as_graph, quantizers_of
from tfmix.fakequant.rounding import blocks_of, learn_rounding
from tfmix.ir.graph import WEIGHTED_OPS

layers = tf_keras.layers
STEPS = 60


def residual_net() -> tf_keras.Model:
    """Four weighted layers, a batch norm, a shortcut; small enough to learn in seconds."""

    def build(x):
        x = layers.Conv2D(6, 3, 2, "same", activation="relu", name="stem")(x)
        y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="a")(x)
        y = layers.ReLU()(layers.BatchNormalization(name="a_bn")(y))
        y = layers.Conv2D(6, 3, padding="same", name="b")(y)
        x = layers.ReLU()(layers.Add(name="sum")([x, y]))
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return layers.Dense(5, activation="softmax", name="dense")(x)

    tf_keras.utils.set_random_seed(1)
    return functional(build)


X = random_inputs(residual_net(), 48)


def quantized(bits: int, model: tf_keras.Model | None = None, **settings) -> tf_keras.Model:
    model = model or residual_net()
    policy = tfmix.QuantizationPolicy.uniform(model, bits)
    return tfmix.quantize_model(
        model, None, policy=policy, calibration_data=X, verbose=0, **settings
    )


def divergence(model: tf_keras.Model, other: tf_keras.Model, x: np.ndarray) -> float:
    p, q = np.asarray(model(x), np.float64), np.asarray(other(x), np.float64)
    return float((p * np.log(p / q)).sum(axis=-1).mean())


# -- blocks -------------------------------------------------------------------------------------


def names(blocks) -> list[list[str]]:
    return [[node.name for node in block] for block in blocks]


def test_blocks_hold_a_branch_and_its_shortcut():
    assert names(blocks_of(as_graph(residual_net()))) == [
        ["stem"],
        ["a", "b", "sum"],
        ["pool", "dense", "dense_softmax"],
    ]


def test_a_depthwise_goes_with_the_pointwise_after_it():
    assert names(blocks_of(graphs.mobilenet_v1()))[:3] == [
        ["conv1"],
        ["dw1", "pw1"],
        ["dw2", "pw2"],
    ]


@pytest.mark.parametrize("build", [graphs.mobilenet_v1, graphs.mobilenet_v2, graphs.resnet])
def test_blocks_of_real_networks(build):
    graph = build()
    for block in blocks_of(graph):
        assert 1 <= sum(node.op in WEIGHTED_OPS for node in block) <= 4


@pytest.mark.parametrize("seed", range(20))
def test_blocks_have_one_input_and_one_output(seed):
    graph = as_graph(random_model(seed))
    blocks = blocks_of(graph)
    assert tuple(itertools.chain(*blocks)) == graph.nodes
    made = {graph.input}
    for block in blocks:
        inside = {node.output for node in block}
        read = {name for node in block for name in node.inputs} - inside
        # Nothing but the last tensor made before is read: the others are over.
        assert read <= {block[0].inputs[0]}
        assert made & {name for node in graph.nodes for name in node.inputs} >= read
        made |= inside


# -- learning -----------------------------------------------------------------------------------


def test_comes_closer_to_the_float_network():
    model = residual_net()
    qmodel = quantized(2)
    fresh = random_inputs(model, 200, seed=5)
    before = divergence(model, qmodel, fresh)
    results = learn_rounding(qmodel, X, steps=300, verbose=0)
    assert [r.nodes[0] for r in results] == ["stem", "a", "pool"]
    assert all(r.after < r.before for r in results)
    assert divergence(model, qmodel, fresh) < 0.85 * before


@pytest.mark.parametrize(
    ("bits", "weights", "weight_quantizer"),
    [
        (2, "per_channel", "lsq"),
        (4, "per_layer", "lsq"),
        (2, "per_layer", "minmax"),
        (8, "per_channel", "minmax"),
    ],
)
def test_kernels_hold_levels_that_the_quantizer_keeps(bits, weights, weight_quantizer):
    qmodel = quantized(bits, weights=weights, weight_quantizer=weight_quantizer)
    old = {
        name: (bound.kernel.numpy(), bound.quantizer.quantize(bound.kernel, bound.variables))
        for name, bound in quantizers_of(qmodel).weights.items()
    }
    learn_rounding(qmodel, X, steps=STEPS, verbose=0)
    moved = 0
    for name, bound in quantizers_of(qmodel).weights.items():
        kernel, (old_q, old_step, old_zero_point) = old[name]
        q, step, zero_point = bound.quantizer.quantize(bound.kernel, bound.variables)
        np.testing.assert_allclose(step, old_step, rtol=1e-5)
        np.testing.assert_array_equal(zero_point, old_zero_point)
        if np.array_equal(bound.kernel.numpy(), kernel):
            continue  # the block gained nothing
        np.testing.assert_allclose(bound.kernel, (q - zero_point) * step, rtol=1e-5, atol=1e-7)
        assert np.abs(q - old_q).max() <= 1  # up or down, no further
        moved += int((q != old_q).numpy().sum())
    assert moved


def test_the_integer_network_has_these_very_levels():
    qmodel = quantized(2)
    learn_rounding(qmodel, X, steps=STEPS, verbose=0)
    integer = {node.name: node for node in tfmix.convert(qmodel).network.nodes}
    bound = quantizers_of(qmodel).weights["b"]
    q, _, zero_point = bound.quantizer.quantize(bound.kernel, bound.variables)
    values = integer["b"].weights.values.astype(int)
    np.testing.assert_array_equal(values, q.numpy().transpose(3, 0, 1, 2))
    for difference in tfmix.compare(qmodel, tfmix.convert(qmodel), X):
        assert difference.max_lsb <= 1


def test_activations_of_other_bits_and_fixed_ones_stay():
    qmodel = quantized(4)
    before = {
        n: b.quantizer.ranges(b.variables) for n, b in quantizers_of(qmodel).activations.items()
    }
    learn_rounding(qmodel, X, steps=STEPS, verbose=0)
    moved = 0
    for name, bound in quantizers_of(qmodel).activations.items():
        for old, new in zip(before[name], bound.quantizer.ranges(bound.variables), strict=True):
            np.testing.assert_allclose(new[[0, 2]], old[[0, 2]], rtol=1e-5)
            moved += name not in as_graph(qmodel).fixed_tensors and old[1] != new[1]
            if name in as_graph(qmodel).fixed_tensors:
                np.testing.assert_array_equal(new, old)
    assert moved


def test_ranges_stay_below_relu6():
    model = chain(layers.Conv2D(4, 3), layers.ReLU(0.5, name="relu"), layers.Conv2D(2, 1))
    qmodel = quantized(4, model, activation_quantizer="pact")
    learn_rounding(qmodel, X, steps=STEPS, verbose=0)
    bound = quantizers_of(qmodel).activations["relu"]
    assert bound.quantizer.ranges(bound.variables)[1].max() <= 0.5 * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_random_network_of_random_bits(seed):
    model = random_model(seed + 30)
    x = random_inputs(model, 20, seed)
    flavour = {
        "batch_norm": ("icn", "fold")[seed % 2],
        "weights": ("per_channel", "per_layer")[seed // 2 % 2],
    }
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0, **flavour)
    tfmix.set_policy(qmodel, random_policy(model, seed))
    results = learn_rounding(qmodel, x, reference=model, steps=20, verbose=0)
    assert all(r.after <= r.before for r in results)
    assert all(np.isfinite(w).all() for w in qmodel.get_weights())
    for difference in tfmix.compare(qmodel, tfmix.convert(qmodel), x):
        assert difference.max_lsb <= 1


def test_prints_a_line_for_each_block(capsys):
    learn_rounding(quantized(4), X, steps=2)
    lines = capsys.readouterr().out.splitlines()
    starts = ["rounding 1/3  stem", "rounding 2/3  a .. sum", "rounding 3/3  pool .. dense_softmax"]
    assert [line.split(":")[0] for line in lines] == starts


# -- resuming -----------------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill_after(monkeypatch, blocks: int) -> None:
    add = rounding._State.add

    def killing(self, result):
        add(self, result)
        if len(self.results) == blocks:
            raise Killed

    monkeypatch.setattr(rounding._State, "add", killing)


@pytest.mark.parametrize("blocks", [1, 3])
def test_goes_on_after_the_last_block_done(blocks, tmp_path, monkeypatch):
    whole = quantized(2)
    expected = learn_rounding(whole, X, steps=STEPS, verbose=0)
    with monkeypatch.context() as patch:
        kill_after(patch, blocks)
        with pytest.raises(Killed):
            learn_rounding(quantized(2), X, steps=STEPS, verbose=0, state_dir=tmp_path / "state")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["rounding.npz"]
    learned = []
    learn = rounding._Block.learn
    monkeypatch.setattr(rounding._Block, "learn", lambda *a: learned.append(1) or learn(*a))
    resumed = quantized(2)
    found = learn_rounding(resumed, X, steps=STEPS, verbose=0, state_dir=tmp_path / "state")
    assert len(learned) == 3 - blocks
    assert found == expected
    for a, b in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_state_of_something_else_is_refused(tmp_path):
    qmodel = quantized(2)
    original = qmodel.get_weights()
    learn_rounding(qmodel, X, steps=2, verbose=0, state_dir=tmp_path)
    already = qmodel.get_weights()
    policy = tfmix.QuantizationPolicy.uniform(qmodel, 2)
    other = policy.replace(weights={"b": 4})
    for weights, bits, x, settings in (
        (original, other, X, {"steps": 2}),
        (original, policy, X[1:], {"steps": 2}),
        (original, policy, X, {"steps": 3}),
        (original, policy, X, {"steps": 2, "seed": 1}),
        (already, policy, X, {"steps": 2}),
    ):
        qmodel.set_weights(weights)
        tfmix.set_policy(qmodel, bits)
        before = qmodel.get_weights()
        with pytest.raises(TfmixError, match="state_dir: .* is of another model, policy, data or"):
            learn_rounding(qmodel, x, verbose=0, state_dir=tmp_path, **settings)
        for a, b in zip(qmodel.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def untouched() -> tf_keras.Model:
    return quantized(2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"text"])
def test_a_damaged_state_is_refused(tmp_path, content, untouched):
    (tmp_path / "rounding.npz").write_bytes(content)
    with pytest.raises(TfmixError, match="is not the state of a rounding"):
        learn_rounding(untouched, X, steps=2, verbose=0, state_dir=tmp_path)


def test_a_directory_that_cannot_be(tmp_path, untouched):
    with pytest.raises(TfmixError, match="state_dir: cannot use .*: No such file or directory"):
        learn_rounding(untouched, X, verbose=0, state_dir=tmp_path / "no" / "parent")


def test_refuses_bad_data(untouched):
    with pytest.raises(CalibrationError, match="is empty"):
        learn_rounding(untouched, X[:0])
    with pytest.raises(TfmixError, match="not a fake-quant model"):
        learn_rounding(residual_net(), X)
