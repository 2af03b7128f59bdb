"""Data sets as arrays, whatever they come as; what their labels are; proxy sets cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfmix.errors import TfmixError
from tfmix.ir.graph import Graph


@dataclass(frozen=True)
class Samples:
    """Inputs [n, ...] in the type they came in, and labels [n, ...], or None without labels."""

    x: np.ndarray
    y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: Any) -> Samples:
        """The samples of these indices, or of this slice."""
        return Samples(self.x[chosen], None if self.y is None else self.y[chosen])


def read_samples(
    data: Any, what: str, graph: Graph | None = None, *, limit: int | None = None
) -> Samples:
    """All samples of a data set, or the first `limit`, in its order.

    data: inputs [n, ...]; (inputs, labels); a batched tf.data.Dataset, or another finite iterable
      of batches, each inputs or (inputs, labels). Sample weights are ignored.
    what: its name in messages.
    graph: the network it is for, if its shape is to be checked.

    TfmixError where it is empty, of another kind or shape, not numbers, not finite, or has labels
    for some of its samples only.
    """
    if limit is None and _is_endless(data):
        raise TfmixError(f"{what} never ends; take a part of it: data.take(batches)")
    parts: list[Samples] = []
    for part in _parts(data, what):
        parts.append(part)
        if limit is not None and sum(map(len, parts)) >= limit:
            break
    if not parts:
        raise TfmixError(f"{what} is empty")
    labelled = [part.y is not None for part in parts]
    if any(labelled) and not all(labelled):
        raise TfmixError(f"{what} has labels in some batches and none in others")
    if len({part.x.shape[1:] for part in parts}) > 1:
        raise TfmixError(f"{what} has inputs of shapes {sorted({p.x.shape[1:] for p in parts})}")
    x = parts[0].x if len(parts) == 1 else np.concatenate([part.x for part in parts])
    y = None
    if all(labelled):
        y = parts[0].y if len(parts) == 1 else np.concatenate([part.y for part in parts])
    _check(x, y, what, graph)
    return Samples(x, y)[:limit]


def _is_endless(data: Any) -> bool:
    return isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY


def _parts(data: Any, what: str) -> Iterator[Samples]:
    if isinstance(data, Samples):
        yield data
    elif isinstance(data, (np.ndarray, tf.Tensor)):
        yield Samples(np.asarray(data))
    elif isinstance(data, tuple) and len(data) in (2, 3):
        yield _sample(data)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        for item in data:
            if not isinstance(item, (tuple, list, np.ndarray, tf.Tensor)):
                raise TfmixError(f"{what} gives {type(item).__name__}, not (inputs, labels)")
            yield _sample(item if isinstance(item, (tuple, list)) else (item,))
    else:
        raise TfmixError(
            f"{what} of type {type(data).__name__}; (inputs, labels), inputs alone, a "
            "tf.data.Dataset or an iterable of batches is needed"
        )


def _sample(item: tuple | list) -> Samples:
    return Samples(np.asarray(item[0]), np.asarray(item[1]) if len(item) > 1 else None)


def _check(x: np.ndarray, y: np.ndarray | None, what: str, graph: Graph | None) -> None:
    if graph is not None:
        shape = graph.tensors[graph.input].shape
        if x.shape[1:] != shape or x.ndim != len(shape) + 1:
            raise TfmixError(
                f"{what} has inputs of shape {x.shape}; {graph.input} takes "
                f"(n, {', '.join(map(str, shape))})"
            )
    if x.ndim == 0 or len(x) == 0:
        raise TfmixError(f"{what} is empty")
    for name, array in (("inputs", x), ("labels", y)):
        if array is None:
            continue
        if array.dtype.kind not in "fiub":
            raise TfmixError(f"{what} has {name} of dtype {array.dtype}; numbers are needed")
        if not np.isfinite(array).all():
            raise TfmixError(f"{what} has NaN or infinite {name}")
    if y is not None and (y.ndim == 0 or len(y) != len(x)):
        raise TfmixError(f"{what} has {len(x)} inputs and labels of shape {y.shape}")


# -- labels -----------------------------------------------------------------------------------


def classes_of(y: np.ndarray | None) -> np.ndarray | None:
    """Class numbers [n] of labels that are classes, one a sample, sparse or one-hot; else None."""
    if y is None:
        return None
    if y.ndim == 2 and y.shape[1] > 1:
        one_hot = ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
        return y.argmax(axis=1) if one_hot else None
    if y.ndim > 2 or not (y == np.floor(y)).all():
        return None
    return y.reshape(len(y)).astype(np.int64)


def balanced_order(samples: Samples, rng: np.random.Generator) -> np.ndarray:
    """Indices of all samples, shuffled such that each beginning of them holds the classes in equal
    numbers, as far as there are; merely shuffled where labels are no classes."""
    order = rng.permutation(len(samples))
    classes = classes_of(samples.y)
    if classes is None:
        return order
    turns = np.empty(len(order), np.int64)
    for label in np.unique(classes):
        members = classes[order] == label
        turns[members] = np.arange(members.sum())
    return order[np.argsort(turns, kind="stable")]


def chosen_samples(samples: Samples, count: int, seed: int) -> np.ndarray:
    """Indices of `count` samples, or of all where there are no more, of balanced classes; in
    rising order."""
    return np.sort(balanced_order(samples, np.random.default_rng(seed))[:count])


# -- proxy sets -------------------------------------------------------------------------------


def proxy(
    data: Any,
    n_train: int,
    n_validation: int,
    *,
    seed: int = 0,
    batch_size: int = 128,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Cuts a small training and a small validation set from `data`, for searches that train.

    Both are disjoint and, where labels are classes, hold the classes in equal numbers as far as
    there are. The same data and seed give the same sets, and their order is the same in every
    epoch: so each episode of a search sees what it would see in another run, and a search that was
    stopped resumes exactly.

    Args:
      data: (inputs, labels), a batched tf.data.Dataset, or an iterable of batches; it is read
        whole.
      n_train, n_validation: samples of each set.
      batch_size: of both sets.

    Returns: (training set, validation set), batched; for
      `qmodel.fit(training, validation_data=validation, callbacks=[tfmix.PolicySearch(...)])`.

    Raises TfmixError where `data` holds too few samples, or is none.
    """
    for name, value in (("n_train", n_train), ("n_validation", n_validation)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise TfmixError(f"{name} {value!r} is not a positive whole number")
    samples = read_samples(data, "data")
    if samples.y is None:
        raise TfmixError("data has no labels; proxy sets are to train on and to measure with")
    total = n_train + n_validation
    if total > len(samples):
        raise TfmixError(
            f"data holds {len(samples)} samples; {n_train} + {n_validation} are asked for"
        )
    rng = np.random.default_rng(seed)
    chosen = balanced_order(samples, rng)[:total]
    classes = classes_of(samples.y)
    if classes is not None:
        chosen = chosen[np.argsort(classes[chosen], kind="stable")]
    # Sorted by class, every k-th: each class gives both sets its share.
    is_validation = np.zeros(total, bool)
    is_validation[((np.arange(n_validation) + 0.5) * total / n_validation).astype(int)] = True
    return tuple(
        _in_fixed_order(samples[rng.permutation(part)], batch_size)
        for part in (chosen[~is_validation], chosen[is_validation])
    )


def _in_fixed_order(samples: Samples, batch_size: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # it may stall the end of an epoch for seconds
    pairs = (samples.x, samples.y)
    return tf.data.Dataset.from_tensor_slices(pairs).batch(batch_size).with_options(options)
