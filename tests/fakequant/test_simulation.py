"""The papers' comparators: any bits, k-means; and that nobody deploys them by mistake."""

from __future__ import annotations

import numpy as np
import pytest
import searchable
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_models import small_cnn

import tfmix
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import quantizers_of
from tfmix.fakequant.quantizers.simulated import SIMULATED_BITS, k_means
from tfmix.fakequant.simulation import set_weight_bits, simulate

X, Y = searchable.data()


def weights_of(model: tf_keras.Model, name: str) -> np.ndarray:
    """As the layer sees them."""
    bound = quantizers_of(model).weights[name]
    return bound.quantizer(bound.kernel, False, bound.variables).numpy()


@pytest.fixture(scope="module", params=["kmeans", "uniform"])
def model(request) -> tf_keras.Model:
    return simulate(searchable.trained(), 8, weight_quantizer=request.param, weights="per_layer")


def test_each_width_has_its_number_of_values_and_less_error(model):
    exact = searchable.trained().get_layer("d").weights[0].numpy()
    errors = []
    for bits in SIMULATED_BITS:
        set_weight_bits(model, {"d": bits})
        found = weights_of(model, "d")
        assert len(np.unique(found)) <= 1 << bits
        errors.append(np.square(found - exact).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_k_means_is_nearer_than_a_uniform_grid():
    exact = searchable.trained().get_layer("d").weights[0].numpy()
    errors = []
    for kind in ("kmeans", "uniform"):
        simulated = simulate(searchable.trained(), 2, weight_quantizer=kind)
        for bits in SIMULATED_BITS:
            set_weight_bits(simulated, {"d": bits})
            errors.append(np.square(weights_of(simulated, "d") - exact).mean())
    assert (np.array(errors[:7]) < errors[7:]).all()


def test_activations_are_in_float_or_have_8_bits():
    outputs = [
        simulate(searchable.trained(), 8, weight_quantizer="uniform", **data).predict(X, verbose=0)
        for data in ({}, {"calibration_data": X})
    ]
    policy = tfmix.QuantizationPolicy.uniform(searchable.network(), 8)
    quantized = tfmix.quantize_model(
        searchable.trained(),
        None,
        policy=policy,
        weight_quantizer="minmax",
        calibration_data=X,
        verbose=0,
    )
    np.testing.assert_allclose(outputs[1], quantized.predict(X, verbose=0), atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4


def test_centroids_learn_by_the_mean_gradient_of_their_weights():
    simulated = simulate(searchable.trained(), 3)
    bound = quantizers_of(simulated).weights["d"]
    upstream = np.random.default_rng(0).normal(size=bound.kernel.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        w = bound.quantizer(bound.kernel, True, bound.variables)
        y = tf.reduce_sum(w * upstream)
    on_kernel, on_codebook = tape.gradient(y, [bound.kernel, bound.variables["codebook"]])
    assert not np.any(on_kernel)
    row = SIMULATED_BITS.index(3)
    codebook = bound.variables["codebook"].numpy()[row]
    expected = np.zeros_like(codebook)
    for cluster in range(8):
        expected[cluster] = upstream[w.numpy() == codebook[cluster]].mean()
    np.testing.assert_allclose(on_codebook[row], expected, rtol=1e-4, atol=1e-6)
    assert not np.any(np.delete(on_codebook, row, axis=0))


def test_clusters_stay_whatever_moves_the_kernel():
    """A regularizer has a gradient of its own for the kernel."""
    simulated = simulate(searchable.trained(), 3)
    bound = quantizers_of(simulated).weights["d"]
    before = bound.quantizer(bound.kernel, True, bound.variables).numpy()
    bound.kernel.assign(0.5 * bound.kernel)
    np.testing.assert_array_equal(bound.quantizer(bound.kernel, True, bound.variables), before)


def test_it_trains_and_bits_change_without_a_retrace():
    simulated = simulate(searchable.trained(), 2)
    simulated.compile("adam", "sparse_categorical_crossentropy")
    before = simulated.evaluate(X, Y, verbose=0)
    simulated.fit(X, Y, epochs=2, verbose=0)
    assert simulated.evaluate(X, Y, verbose=0) < before
    assert len(np.unique(weights_of(simulated, "d"))) == 4
    traces = simulated.train_function.experimental_get_tracing_count()
    set_weight_bits(simulated, {"a": 5, "d": 7})
    simulated.fit(X, Y, verbose=0)
    assert simulated.train_function.experimental_get_tracing_count() == traces


@pytest.mark.parametrize(
    "use",
    [
        tfmix.convert,
        lambda model: tfmix.export(model, "/dev/null"),
        tfmix.memory_report,
        lambda model: tfmix.search_policy(model, None, "memory"),
    ],
    ids=["convert", "export", "memory_report", "search_policy"],
)
def test_nothing_deploys_it(model, use):
    with pytest.raises(TfmixError, match="simulation only: a and 3 more .*WeightQuantizer"):
        use(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_bits": 9}, r"weights 'a': bit-width 9 is not one of \(2, 3, 4, 5, 6, 7, 8\)"),
        ({"weight_bits": {"b": 1}}, "weights 'b': bit-width 1"),
        ({"weight_bits": {"z": 4}}, r"no weights \['z'\] in the network"),
        ({"weight_bits": 4, "weight_quantizer": "lsq"}, "'lsq' is not one of .'kmeans', 'uniform'"),
        ({"weight_bits": 4, "weights": "per_row"}, "'per_row' is not one of"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(TfmixError, match=message):
        simulate(searchable.network(), **arguments)


def test_other_models_have_other_bits():
    qmodel = tfmix.quantize_model(small_cnn(), None, verbose=0)
    with pytest.raises(TfmixError, match="was not made by simulate; use set_policy"):
        set_weight_bits(qmodel, {"conv": 3})
    with pytest.raises(TfmixError, match="weight_quantizer 'kmeans' is not one of"):
        tfmix.quantize_model(small_cnn(), None, weight_quantizer="kmeans", verbose=0)


# -- k-means ----------------------------------------------------------------------------------


def error(values: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.square(values[:, None] - centroids).min(axis=1).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 300), st.integers(1, 16))
def test_no_centroid_can_be_moved_for_the_better(seed, n, k):
    values = np.random.default_rng(seed).normal(size=n)
    centroids = k_means(values, k)
    assert len(centroids) == min(k, n)
    assert (np.diff(centroids) > 0).all()
    cells = np.abs(values[:, None] - centroids).argmin(axis=1)
    for cell in np.unique(cells):
        assert centroids[cell] == pytest.approx(values[cells == cell].mean(), abs=1e-9)
    grid = np.linspace(values.min(), values.max(), k) if k > 1 else np.array([values.mean()])
    assert error(values, centroids) <= error(values, grid) + 1e-9


def test_few_different_values_are_kept_exactly():
    assert k_means(np.array([3.0, 1.0, 3.0, 1.0, 2.0]), 4).tolist() == [1, 2, 3]
