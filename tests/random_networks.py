"""Random tf_keras models of all supported layers: small, odd shapes, branches, any bits.

A network and a policy are values of their seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tf_keras
from keras_models import randomize, squeeze_and_excite

from tfmix.ir.graph import FIXED_BITS, as_graph
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy

layers = tf_keras.layers


def random_model(seed: int) -> tf_keras.Model:
    """2 to 8 layers, with or without a classifier among them."""
    rng = np.random.default_rng(seed)
    return randomize(_Network(rng).build(int(rng.integers(2, 9))), seed)


def random_policy(model: tf_keras.Model, seed: int) -> QuantizationPolicy:
    """Random bits wherever a policy may choose."""
    rng, graph = np.random.default_rng(seed), as_graph(model)
    return QuantizationPolicy(
        {node.name: int(rng.choice(BIT_WIDTHS)) for node in graph.weighted_nodes},
        {
            name: FIXED_BITS if name in graph.fixed_tensors else int(rng.choice(BIT_WIDTHS))
            for name in graph.quantized_tensors
        },
    )


class _Network:
    """Grows a model layer by layer: each reads the last tensor, some an earlier one too."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.tensors = [tf_keras.Input((*self._integers(3, 12, 2), *self._integers(1, 5)))]

    def build(self, depth: int) -> tf_keras.Model:
        for _ in range(depth - 1):
            self._grow(_ON_IMAGES if self._is_image else _ON_FEATURES)
        self._grow(_LAST)
        return tf_keras.Model(self.tensors[0], self.tensors[-1])

    def _grow(self, kinds: tuple[Callable, ...]) -> None:
        self.tensors.append(self._choose(kinds)(self, self.tensors[-1]))

    @property
    def _is_image(self) -> bool:
        return len(self.tensors[-1].shape) == 4

    # -- choices ----------------------------------------------------------------------------

    def _choose(self, options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def _integers(self, low: int, high: int, count: int = 1) -> tuple[int, ...]:
        return tuple(int(n) for n in self.rng.integers(low, high + 1, count))

    def _flag(self) -> bool:
        return bool(self.rng.integers(2))

    def _activation(self) -> Any:
        return self._choose((None, "relu", "relu6", layers.ReLU(float(self.rng.uniform(1, 8)))))

    def _window(self, x: Any, *, square_strides: bool = False) -> dict[str, Any]:
        """Strides and padding, and a kernel that they leave room for."""
        padding = self._choose(("same", "valid"))
        sizes = (5, 5) if padding == "same" else tuple(x.shape[1:3])
        (rows,), (columns,) = (self._integers(1, min(5, size)) for size in sizes)
        strides = self._integers(1, 3) * 2 if square_strides else self._integers(1, 3, 2)
        return {"kernel": (rows, columns), "strides": strides, "padding": padding}

    def _peers(self, x: Any, axes: slice) -> list[Any]:
        """Earlier tensors with the shape of `x` along `axes`, and one made for the purpose."""
        wanted = x.shape[axes]
        found = [
            t for t in self.tensors if t.shape.rank == x.shape.rank and t.shape[axes] == wanted
        ]
        return [*found, layers.Dense(x.shape[-1])(x)]

    # -- layers -----------------------------------------------------------------------------

    def conv(self, x: Any) -> Any:
        # TensorFlow's oneDNN kernel gives wrong sums for one input channel and strides 1 x n where
        # the output is one pixel wide.
        window = self._window(x, square_strides=x.shape[-1] == 1)
        return layers.Conv2D(
            *self._integers(1, 9),
            window.pop("kernel"),
            **window,
            use_bias=self._flag(),
            activation=self._activation(),
        )(x)

    def conv_block(self, x: Any) -> Any:
        x = layers.Conv2D(*self._integers(1, 9), 3, padding="same", use_bias=self._flag())(x)
        return layers.ReLU(self._choose((None, 6.0)))(self.batch_norm(x))

    def depthwise(self, x: Any) -> Any:
        window = self._window(x, square_strides=True)
        return layers.DepthwiseConv2D(
            window.pop("kernel"),
            **window,
            depth_multiplier=self._choose((1, 1, 2)),
            use_bias=self._flag(),
            activation=self._activation(),
        )(x)

    def separable(self, x: Any) -> Any:
        window = self._window(x, square_strides=True)
        return layers.SeparableConv2D(
            *self._integers(1, 9), window.pop("kernel"), **window, activation=self._activation()
        )(x)

    def dense(self, x: Any) -> Any:
        return layers.Dense(
            *self._integers(1, 12), use_bias=self._flag(), activation=self._activation()
        )(x)

    def classifier(self, x: Any) -> Any:
        return layers.Dense(*self._integers(2, 12), activation="softmax")(layers.Flatten()(x))

    def batch_norm(self, x: Any) -> Any:
        return layers.BatchNormalization(scale=self._flag(), center=self._flag())(x)

    def activation(self, x: Any) -> Any:
        kinds = (layers.ReLU(), layers.ReLU(6.0), layers.Activation("relu"), layers.Softmax())
        kinds += (layers.Activation("sigmoid"), layers.Activation("hard_sigmoid"))
        return self._choose(kinds)(x)

    def dropout(self, x: Any) -> Any:
        return layers.Dropout(0.5)(x)

    def add(self, x: Any) -> Any:
        peers = self._peers(x, slice(1, None))
        return layers.Add()([x, *(self._choose(peers) for _ in range(*self._integers(1, 2)))])

    def multiply(self, x: Any) -> Any:
        return layers.Multiply()([x, self._choose(self._peers(x, slice(1, None)))])

    def excite(self, x: Any) -> Any:
        return squeeze_and_excite(
            x,
            gate=self._choose(("sigmoid", "hard_sigmoid")),
            pool=self._choose(("keepdims", "reshape")),
            dense=self._flag(),
        )

    def concatenate(self, x: Any) -> Any:
        peers = self._peers(x, slice(1, -1))
        return layers.Concatenate()(
            [x, *(self._choose(peers) for _ in range(*self._integers(1, 2)))]
        )

    def pool(self, x: Any) -> Any:
        window = self._window(x)
        kind = self._choose((layers.AveragePooling2D, layers.MaxPooling2D))
        return kind(window.pop("kernel"), **window)(x)

    def global_pool(self, x: Any) -> Any:
        kind = self._choose((layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D))
        return kind(keepdims=self._flag())(x)

    def padding(self, x: Any) -> Any:
        return layers.ZeroPadding2D((self._integers(0, 2, 2), self._integers(0, 2, 2)))(x)

    def padded_conv(self, x: Any) -> Any:
        return self.conv(self.padding(x))

    def reshape(self, x: Any) -> Any:
        *pixels, channels = x.shape[1:]
        flat = (math.prod(pixels), channels)
        return self._choose((layers.Flatten(), layers.Reshape(flat)))(x)

    def nested(self, x: Any) -> Any:
        inner = _Network(self.rng)
        inner.tensors = [tf_keras.Input(x.shape[1:])]
        return inner.build(2)(x)


_EVERYWHERE = (
    _Network.dense,
    _Network.batch_norm,
    _Network.activation,
    _Network.dropout,
    _Network.add,
    _Network.multiply,
    _Network.concatenate,
    _Network.reshape,
    _Network.nested,
)
_ON_FEATURES = _EVERYWHERE
_ON_IMAGES = (
    *_EVERYWHERE,
    *(_Network.conv,) * 2,
    *(_Network.conv_block,) * 2,
    *(_Network.depthwise,) * 2,
    _Network.separable,
    _Network.excite,
    *(_Network.pool,) * 2,
    _Network.global_pool,
    _Network.padding,
    _Network.padded_conv,
)
_LAST = (_Network.dense, _Network.classifier, _Network.activation, _Network.batch_norm)
