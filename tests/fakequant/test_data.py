"""Data sets of all kinds read as arrays, and proxy sets cut from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_models import IMAGE, small_cnn

from tfmix.errors import TfmixError
from tfmix.fakequant.data import Samples, balanced_order, classes_of, proxy, read_samples
from tfmix.ir.graph import as_graph

X = np.random.default_rng(0).normal(size=(20, *IMAGE)).astype(np.float32)
Y = np.arange(20) % 5
GRAPH = as_graph(small_cnn())


def generator():
    yield X[:13], Y[:13]
    yield [X[13:], Y[13:]]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X, Y, np.ones(20)),
        (tf.constant(X), tf.constant(Y)),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(7),
        [(X[:3], Y[:3]), (X[3:], Y[3:])],
        generator(),
        Samples(X, Y),
    ],
    ids=["pair", "weights", "tensors", "dataset", "list", "generator", "samples"],
)
def test_labelled_data(data):
    samples = read_samples(data, "data", GRAPH)
    np.testing.assert_array_equal(samples.x, X)
    np.testing.assert_array_equal(samples.y, Y)


@pytest.mark.parametrize(
    "data",
    [X, tf.constant(X), tf.data.Dataset.from_tensor_slices(X).batch(7), [X[:3], X[3:]]],
    ids=["array", "tensor", "dataset", "list"],
)
def test_inputs_alone(data):
    samples = read_samples(data, "data", GRAPH)
    np.testing.assert_array_equal(samples.x, X)
    assert samples.y is None


def test_the_type_of_inputs_is_kept():
    assert read_samples((X > 0).astype(np.uint8), "data", GRAPH).x.dtype == np.uint8


@pytest.mark.parametrize("limit", [1, 7, 8, 20, 99])
def test_a_limit(limit):
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(7)
    batches = ((X[i : i + 1], Y[i : i + 1]) for i in itertools.count())
    for data in ((X, Y), endless, batches):
        if limit <= 20:
            samples = read_samples(data, "data", GRAPH, limit=limit)
            np.testing.assert_array_equal(samples.x, X[:limit])
            np.testing.assert_array_equal(samples.y, Y[:limit])
    assert len(read_samples((X, Y), "data", limit=limit)) == min(limit, 20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "data of type NoneType; .* is needed"),
        ("x.npy", "data of type str"),
        ({"x": X}, "data of type dict"),
        ([], "data is empty"),
        (X[:0], "data is empty"),
        ([{"x": X}], r"data gives dict, not \(inputs, labels\)"),
        (X[0], r"data has inputs of shape .*image takes \(n, 8, 9, 3\)"),
        (X[:, 1:], "data has inputs of shape"),
        ((X, Y[:-1]), r"data has 20 inputs and labels of shape \(19,\)"),
        ((X, 3), "data has 20 inputs and labels of shape"),
        ((X * np.nan, Y), "data has NaN or infinite inputs"),
        ((X, np.full(20, np.inf)), "data has NaN or infinite labels"),
        ((X.astype(str), Y), "data has inputs of dtype <U"),
        ([(X, Y), (X,)], "data has labels in some batches and none in others"),
        ([X, X[:, 1:]], "data has inputs of shapes"),
        (tf.data.Dataset.from_tensors((X, Y)).repeat(), "data never ends; take a part"),
    ],
)
def test_refuses(data, message):
    with pytest.raises(TfmixError, match=message):
        read_samples(data, "data", GRAPH)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (None, None),
        ([0, 2, 1], [0, 2, 1]),
        ([[0], [2]], [0, 2]),
        ([0.0, 3.0], [0, 3]),
        ([[0, 1, 0], [1, 0, 0]], [1, 0]),
        ([0.5, 1.0], None),
        ([[0.5, 0.5], [1, 0]], None),
        ([[1, 1], [0, 0]], None),
        (np.zeros((2, 3, 3)), None),
    ],
)
def test_what_labels_are_classes(y, classes):
    found = classes_of(None if y is None else np.array(y))
    assert (None if found is None else found.tolist()) == classes


# -- proxy sets ---------------------------------------------------------------------------------


def labelled(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each input is its own number."""
    return np.arange(len(labels), dtype=np.float32)[:, None], labels


def contents(dataset: tf.data.Dataset) -> tuple[list[int], list[int]]:
    """Numbers and labels, in order."""
    batches = list(dataset.as_numpy_iterator())
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return x[:, 0].astype(int).tolist(), y.tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_sets_are_disjoint_balanced_and_reproducible(data):
    labels = np.array(data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=120)))
    n_train = data.draw(st.integers(1, len(labels) - 1))
    n_validation = data.draw(st.integers(1, len(labels) - n_train))
    seed = data.draw(st.integers(0, 3))
    sets = proxy(labelled(labels), n_train, n_validation, seed=seed)
    again = proxy(labelled(labels), n_train, n_validation, seed=seed)
    (train, y_train), (validation, y_validation) = map(contents, sets)
    assert (len(train), len(validation)) == (n_train, n_validation)
    assert len({*train, *validation}) == n_train + n_validation
    np.testing.assert_array_equal(labels[train], y_train)
    np.testing.assert_array_equal(labels[validation], y_validation)
    assert [contents(s) for s in again] == [contents(s) for s in sets]
    assert contents(sets[0]) == contents(sets[0]), "the order differs between epochs"

    there = np.bincount(labels, minlength=5)
    taken = np.bincount(labels[train + validation], minlength=5)
    for one, other in itertools.permutations(range(5), 2):
        # A class has fewer than another by more than one only where there are no more of it.
        assert taken[one] >= taken[other] - 1 or taken[one] == there[one]
    share = taken * n_validation / (n_train + n_validation)
    assert (np.abs(np.bincount(y_validation, minlength=5) - share) < 2).all()


def test_another_seed_is_another_cut():
    data = labelled(np.arange(200) % 4)
    assert contents(proxy(data, 50, 50)[0]) != contents(proxy(data, 50, 50, seed=1)[0])


def test_labels_that_are_no_classes():
    data = (np.arange(50.0)[:, None], np.linspace(0, 1, 50))
    train, validation = (contents(s)[0] for s in proxy(data, 30, 20, batch_size=7))
    assert sorted(train + validation) == list(range(50))
    assert train != sorted(train)


def test_batches_and_options():
    train, validation = proxy(labelled(np.arange(50) % 4), 30, 20, batch_size=16)
    assert [len(x) for x, _ in train] == [16, 14]
    assert [len(x) for x, _ in validation] == [16, 4]
    assert train.options().autotune.enabled is False
    assert train.options().deterministic is True


def test_a_balanced_order_begins_balanced():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 3)
    order = balanced_order(Samples(labels, labels), np.random.default_rng(0))
    assert np.bincount(labels[order[:9]]).tolist() == [3, 3, 3]
    assert np.bincount(labels[order[:23]]).tolist() == [10, 10, 3]
    assert sorted(order) == list(range(63))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((X, Y), 15, 6), r"data holds 20 samples; 15 \+ 6 are asked for"),
        (((X, Y), 0, 6), "n_train 0 is not a positive whole number"),
        (((X, Y), 5, 2.5), "n_validation 2.5 is not"),
        ((X, 5, 5), "data has no labels"),
    ],
)
def test_refuses_to_cut(arguments, message):
    with pytest.raises(TfmixError, match=message):
        proxy(*arguments)
