"""Small tf_keras models for tests: one for each layer and setting that tfmix supports.

`SUPPORTED` is the one list that tests of reading, rebuilding, quantizing and converting run over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

import tfmix

layers = tf_keras.layers

#: Neither square nor even, so that rows, columns and padding cannot be mixed up.
IMAGE = (8, 9, 3)


def functional(
    build: Callable[[Any], Any], shape: tuple[int, ...] = IMAGE, name: str | None = None
) -> tf_keras.Model:
    """The functional model with `build` between input and output."""
    inputs = tf_keras.Input(shape, name="image")
    return tf_keras.Model(inputs, build(inputs), name=name)


def chain(*steps: Any, shape: tuple[int, ...] = IMAGE, name: str | None = None) -> tf_keras.Model:
    """The functional model of layers one after the other."""

    def build(x: Any) -> Any:
        for step in steps:
            x = step(x)
        return x

    return functional(build, shape, name)


def small_cnn(classes: int = 5) -> tf_keras.Model:
    """Every weighted layer, a branch, both kinds of batch norm and of ReLU; trains in seconds."""

    def build(x: Any) -> Any:
        x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="conv")(x)
        x = layers.BatchNormalization(name="conv_bn")(x)
        x = skip = layers.ReLU(name="conv_relu")(x)
        x = layers.DepthwiseConv2D(3, padding="same", activation=tf.nn.relu6, name="dw")(x)
        x = layers.Conv2D(6, 1, name="pw")(x)
        x = layers.Add(name="add")([x, skip])
        x = layers.BatchNormalization(name="bn")(x)
        x = layers.Dropout(0.1)(x)
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        return layers.Dense(classes, activation="softmax", name="dense")(x)

    return randomize(functional(build))


def random_inputs(model: tf_keras.Model, count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, *input shape], normal."""
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomize(model: tf_keras.Model, seed: int = 0) -> tf_keras.Model:
    """`model` with weights and batch norm statistics as training might leave them: negative and
    zero gammas, variances of zero, channels of zeros, ranges far apart."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        kind = variable.name.split("/")[-1].removesuffix(":0")
        variable.assign(_values(rng, kind, tuple(variable.shape)))
    return model


def _values(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    rare = rng.random(shape[-1]) < 0.05
    if kind == "moving_variance":
        return np.where(rare, 0, rng.uniform(0.3, 2, shape))
    if kind == "gamma":
        return np.where(rare, 0, rng.normal(1, 0.5, shape))
    if kind.endswith("kernel"):
        spread = rng.choice([0.25, 1, 4], shape[-1])
        return np.where(rare, 0, rng.normal(size=shape) * spread / math.sqrt(math.prod(shape[:-1])))
    return rng.normal(size=shape) / 2  # bias, beta, moving_mean


# -- one model per layer and setting ------------------------------------------------------------


def _conv(**settings: Any) -> Any:
    return layers.Conv2D(4, 3, **settings)


def _branches(*merge: Any) -> Callable[[Any], Any]:
    """Three convolutions side by side, and what puts them together."""

    def build(x: Any) -> Any:
        y = [layers.Conv2D(4, 1, activation=a)(x) for a in (None, "relu", None)]
        for layer in merge:
            y = layer(y)
        return y

    return build


def _padding_read_twice(x: Any) -> Any:
    padded = layers.ZeroPadding2D(1)(x)
    return layers.Concatenate()([layers.Conv2D(4, 3)(padded), layers.MaxPooling2D(3, 1)(padded)])


def _nested(x: Any) -> Any:
    inner = tf_keras.Sequential([_conv(), layers.BatchNormalization(), layers.ReLU()])
    return layers.Dense(3)(inner(x))


def _nested_twice(x: Any) -> Any:
    """A model in a model in a model, two of whose layers have one name."""
    innermost = chain(layers.Conv2D(3, 1, name="same_name"), layers.ReLU())
    middle = functional(lambda y: layers.Conv2D(3, 1, name="same_name")(innermost(y)))
    return middle(x)


def _nested_two_outputs(x: Any) -> Any:
    """One output of the inner model is not used, nor is the layer that gives it."""
    inputs = tf_keras.Input(IMAGE)
    y = layers.Conv2D(4, 1)(inputs)
    inner = tf_keras.Model(inputs, [y, layers.Conv2D(2, 1)(layers.ReLU()(y))])
    return inner(x)[0]


def squeeze_and_excite(
    x: Any, *, gate: Any = "sigmoid", pool: str = "keepdims", dense: bool = False
) -> Any:
    """x times a gate for each channel. pool: what makes (1, 1, channels) of the means."""
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=pool == "keepdims")(x)
    if pool == "reshape":
        y = layers.Reshape((1, 1, channels))(y)
    layer = layers.Dense if dense else lambda units, **more: layers.Conv2D(units, 1, **more)
    y = layer(3, activation="relu")(y)
    y = layer(channels, activation=gate)(y)
    return layers.Multiply()([x, y])


def _excited(**settings: Any) -> Callable[[Any], Any]:
    def build(x: Any) -> Any:
        x = squeeze_and_excite(layers.Conv2D(6, 3, activation="relu")(x), **settings)
        return layers.Conv2D(4, 1)(x)

    return build


def _dropout_in_one_branch(x: Any) -> Any:
    """tf_keras runs b before a, since the way from b is longer by two layers that do nothing."""
    a, b = layers.Conv2D(4, 1, name="a")(x), layers.Conv2D(4, 1, name="b")(x)
    return layers.Add()([a, layers.Dropout(0.1)(layers.Dropout(0.1)(b))])


_Build = Callable[[], tf_keras.Model]

SUPPORTED: dict[str, _Build] = {
    # convolutions
    "conv2d": lambda: chain(_conv()),
    "conv2d without bias": lambda: chain(_conv(use_bias=False)),
    "conv2d same": lambda: chain(_conv(padding="same")),
    "conv2d same, asymmetric": lambda: chain(_conv(padding="same", strides=2)),
    "conv2d 10x4, strides 2": lambda: chain(
        layers.Conv2D(4, (10, 4), 2, "same"), shape=(49, 10, 1)
    ),
    "conv2d 2x5, strides 3x1": lambda: chain(layers.Conv2D(4, (2, 5), (3, 1), "same")),
    "conv2d wider than the image": lambda: chain(
        layers.Conv2D(4, 5, padding="same"), shape=(2, 1, 3)
    ),
    "depthwise": lambda: chain(layers.DepthwiseConv2D(3, 2, "same")),
    "depthwise, multiplier 2": lambda: chain(layers.DepthwiseConv2D((2, 3), depth_multiplier=2)),
    "depthwise alone before 1x1": lambda: chain(
        layers.DepthwiseConv2D((3, 1), use_bias=False), layers.Conv2D(4, 1)
    ),
    "separable": lambda: chain(layers.SeparableConv2D(4, 3, padding="same")),
    "separable, multiplier 2, relu": lambda: chain(
        layers.SeparableConv2D(4, 3, 2, depth_multiplier=2, activation="relu", use_bias=False)
    ),
    "dense": lambda: chain(layers.Dense(4), shape=(7,)),
    "dense on pixels": lambda: chain(layers.Dense(4)),
    "dense on time steps": lambda: chain(layers.Dense(4), shape=(5, 3)),
    # activations inside layers
    "conv2d relu": lambda: chain(_conv(activation="relu")),
    "conv2d relu6": lambda: chain(_conv(activation=tf.nn.relu6)),
    "conv2d ReLU(0.5)": lambda: chain(_conv(activation=layers.ReLU(0.5))),
    "conv2d softmax": lambda: chain(_conv(activation="softmax")),
    "depthwise relu6": lambda: chain(layers.DepthwiseConv2D(3, activation=tf.nn.relu6)),
    "separable ReLU(6)": lambda: chain(layers.SeparableConv2D(4, 3, activation=layers.ReLU(6.0))),
    "dense softmax": lambda: chain(layers.Dense(4, activation="softmax"), shape=(7,)),
    "dense tf.nn.softmax": lambda: chain(layers.Dense(4, activation=tf.nn.softmax), shape=(7,)),
    "dense Softmax()": lambda: chain(layers.Dense(4, activation=layers.Softmax()), shape=(7,)),
    # activations as layers
    "relu": lambda: chain(_conv(), layers.ReLU()),
    "relu6": lambda: chain(_conv(), layers.ReLU(6.0)),
    "Activation(relu)": lambda: chain(_conv(), layers.Activation("relu")),
    "Activation(relu6)": lambda: chain(_conv(), layers.Activation("relu6")),
    "Activation(softmax)": lambda: chain(_conv(), layers.Activation("softmax")),
    "Activation(linear)": lambda: chain(_conv(), layers.Activation("linear"), layers.ReLU()),
    "relu on the input": lambda: chain(layers.ReLU(), _conv()),
    "relu6 after relu": lambda: chain(_conv(activation="relu"), layers.ReLU(0.5)),
    "softmax": lambda: chain(_conv(), layers.Softmax()),
    "softmax in the middle": lambda: chain(_conv(), layers.Softmax(), _conv()),
    "softmax on the input": lambda: chain(layers.Softmax(), layers.MaxPooling2D()),
    "sigmoid": lambda: chain(_conv(), layers.Activation("sigmoid"), layers.Conv2D(3, 1)),
    "sigmoid last": lambda: chain(layers.Flatten(), layers.Dense(1, activation="sigmoid")),
    "hard sigmoid": lambda: chain(_conv(activation="hard_sigmoid"), layers.MaxPooling2D()),
    # batch norm
    "conv2d, batch norm": lambda: chain(_conv(), layers.BatchNormalization()),
    "conv2d without bias, batch norm, relu": lambda: chain(
        _conv(use_bias=False), layers.BatchNormalization(), layers.ReLU()
    ),
    "batch norm without scale": lambda: chain(_conv(), layers.BatchNormalization(scale=False)),
    "batch norm without center": lambda: chain(_conv(), layers.BatchNormalization(center=False)),
    "depthwise, batch norm": lambda: chain(
        layers.DepthwiseConv2D(3, depth_multiplier=2), layers.BatchNormalization()
    ),
    "dense, batch norm": lambda: chain(layers.Dense(4), layers.BatchNormalization(), shape=(7,)),
    "conv2d, batch norm, flatten": lambda: chain(
        _conv(), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)
    ),
    "batch norm alone": lambda: chain(layers.BatchNormalization(), layers.ReLU()),
    "batch norm after relu": lambda: chain(_conv(activation="relu"), layers.BatchNormalization()),
    "batch norm twice": lambda: chain(
        _conv(), layers.BatchNormalization(), layers.BatchNormalization()
    ),
    # merging
    "add": lambda: functional(_branches(lambda y: y[:2], layers.Add())),
    "add of three, relu": lambda: functional(_branches(layers.Add(), layers.ReLU())),
    "add of one": lambda: functional(_branches(lambda y: y[:1], layers.Add())),
    "add of the same": lambda: functional(_branches(lambda y: [y[0], y[0]], layers.Add())),
    "concatenate": lambda: functional(_branches(layers.Concatenate(), layers.ReLU())),
    "concatenate axis 3": lambda: functional(_branches(layers.Concatenate(axis=3))),
    "concatenate of one": lambda: functional(_branches(lambda y: y[:1], layers.Concatenate())),
    "concatenate of the same": lambda: functional(
        _branches(lambda y: [y[0], y[1], y[0]], layers.Concatenate())
    ),
    "multiply": lambda: functional(_branches(lambda y: y[:2], layers.Multiply())),
    "multiply of three, relu": lambda: functional(_branches(layers.Multiply(), layers.ReLU())),
    "multiply of one": lambda: functional(_branches(lambda y: y[:1], layers.Multiply())),
    "squeeze and excite": lambda: functional(_excited()),
    "squeeze and excite, reshape": lambda: functional(
        _excited(gate="hard_sigmoid", pool="reshape")
    ),
    "squeeze and excite, features": lambda: functional(
        _excited(gate=tf.nn.sigmoid, pool="features", dense=True)
    ),
    # pooling
    "average pool": lambda: chain(layers.AveragePooling2D()),
    "average pool same": lambda: chain(layers.AveragePooling2D(3, 2, "same"), layers.ReLU()),
    "max pool": lambda: chain(layers.MaxPooling2D((2, 3), (1, 2), "same")),
    "global average pool": lambda: chain(layers.GlobalAveragePooling2D()),
    "global average pool, keepdims": lambda: chain(layers.GlobalAveragePooling2D(keepdims=True)),
    "global max pool": lambda: chain(_conv(), layers.GlobalMaxPooling2D()),
    "global max pool, keepdims": lambda: chain(_conv(), layers.GlobalMaxPooling2D(keepdims=True)),
    # shape
    "flatten": lambda: chain(_conv(), layers.Flatten(), layers.Dense(4)),
    "flatten last": lambda: chain(_conv(), layers.Flatten()),
    "reshape": lambda: chain(layers.Reshape((9, 4, 6)), _conv()),
    "reshape through four dimensions": lambda: chain(
        layers.Reshape((2, 4, 9, 3)), layers.Flatten(), layers.Dense(4)
    ),
    "reshape of features": lambda: chain(
        layers.Reshape((6, 2, 1)), _conv(padding="same"), shape=(12,)
    ),
    # padding
    "padding folded": lambda: chain(layers.ZeroPadding2D(1), _conv()),
    "padding folded, strides 2": lambda: chain(
        layers.ZeroPadding2D(((0, 1), (0, 1))), layers.DepthwiseConv2D(3, 2)
    ),
    "padding folded into same": lambda: chain(
        layers.ZeroPadding2D(((1, 0), (0, 1))), layers.Conv2D(4, 5, 2, "same")
    ),
    "padding chain folded": lambda: chain(
        layers.ZeroPadding2D(((1, 0), (0, 1))), layers.ZeroPadding2D(1), layers.Conv2D(4, 5)
    ),
    "padding as large as the window": lambda: chain(layers.ZeroPadding2D(3), _conv()),
    "padding before a pool": lambda: chain(layers.ZeroPadding2D(1), layers.AveragePooling2D()),
    "padding read twice": lambda: functional(_padding_read_twice),
    "padding last": lambda: chain(_conv(), layers.ZeroPadding2D(1)),
    # nothing at inference
    "dropout": lambda: chain(_conv(activation="relu"), layers.Dropout(0.5), layers.Conv2D(2, 1)),
    "spatial dropout": lambda: chain(_conv(), layers.SpatialDropout2D(0.5), layers.ReLU()),
    "gaussian noise": lambda: chain(layers.GaussianNoise(0.1), _conv()),
    "dropout last": lambda: chain(_conv(), layers.Dropout(0.5)),
    "dropout in one branch": lambda: functional(_dropout_in_one_branch),
    # models
    "sequential": lambda: tf_keras.Sequential(
        [layers.Input(IMAGE), _conv(), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
    ),
    "nested": lambda: functional(_nested),
    "nested twice": lambda: functional(_nested_twice),
    "nested with two outputs": lambda: functional(_nested_two_outputs),
    "no weights": lambda: chain(layers.MaxPooling2D()),
    "small CNN": small_cnn,
}


@cache
def quantized(case: str) -> tuple[tf_keras.Model, tf_keras.Model]:
    """(model, its fake-quant model), calibrated, of a case in SUPPORTED; made once.

    Whoever changes the fake-quant model's bits sets the ones it needs first.
    """
    model = randomize(SUPPORTED[case]())
    data = random_inputs(model, 64)
    return model, tfmix.quantize_model(model, None, calibration_data=data, verbose=0)
