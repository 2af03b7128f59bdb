"""Keras 3 models -> tf_keras: equal outputs for what is supported, a complete list for the rest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_models import IMAGE

import tfmix
from tfmix.errors import UnsupportedModelError
from tfmix.frontend.keras import READABLE_LAYERS
from tfmix.frontend.keras3 import TOLERANCE, Keras3Model, to_tf_keras

layers, ops = keras.layers, keras.ops


def functional(build: Callable[[Any], Any], shape=IMAGE, **settings: Any) -> keras.Model:
    inputs = keras.Input(shape, name="image", **settings)
    return keras.Model(inputs, build(inputs))


def chain(*steps: Any, shape=IMAGE) -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="image"), *steps])


def randomize(model: keras.Model) -> keras.Model:
    """Weights that differ everywhere; those of a batch norm too, or mistakes would not show."""
    rng = np.random.default_rng(0)
    values = []
    for weight in model.weights:
        spread = 1 / np.sqrt(max(1, np.prod(weight.shape[:-1])))
        value = rng.normal(size=weight.shape) * spread
        values.append(np.abs(value) + 0.5 if weight.name.endswith("variance") else value)
    model.set_weights(values)
    return model


def ds_cnn() -> keras.Model:
    steps = [layers.Conv2D(16, (10, 4), strides=2, padding="same", activation="relu")]
    for _ in range(2):
        steps += [
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 1),
            layers.BatchNormalization(epsilon=1e-2),
            layers.Activation("relu"),
        ]
    steps += [layers.Dropout(0.2), layers.AveragePooling2D((25, 5)), layers.Flatten()]
    return chain(*steps, layers.Dense(12, activation="softmax"), shape=(49, 10, 1))


def resnet() -> keras.Model:
    def build(x: Any) -> Any:
        x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        for filters, strides in ((8, 1), (16, 2)):
            y = layers.Conv2D(filters, 3, strides, "same", kernel_regularizer="l2")(x)
            y = layers.ReLU()(layers.BatchNormalization()(y))
            y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
            x = layers.Conv2D(filters, 1, strides)(x) if strides > 1 else x
            x = layers.ReLU()(layers.Add()([x, y]))
        return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))

    return functional(build, (64, 64, 3))


def _keras_application(name: str, **settings: Any) -> Callable[[], keras.Model]:
    return lambda: getattr(keras.applications, name)((64, 64, 3), weights=None, **settings)


def _nested() -> keras.Model:
    """The same names inside as outside, and one Sequential in the other."""
    inner = chain(layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn"))
    outer = keras.Sequential([keras.Input(IMAGE), layers.Conv2D(3, 1, name="conv"), inner])
    return functional(lambda x: layers.ReLU(name="bn")(outer(x)))


def _two_inside() -> keras.Model:
    """A nested functional model with two inputs and two outputs."""
    a, b = keras.Input(IMAGE), keras.Input(IMAGE)
    inner = keras.Model([a, b], [layers.Conv2D(2, 3)(b), layers.Conv2D(2, 3)(a)])
    return functional(lambda x: layers.Concatenate()(inner([x, layers.ReLU()(x)])))


def _built_late() -> keras.Model:
    model = keras.Sequential([layers.Conv2D(4, 3), layers.Flatten()])
    model(np.zeros((5, *IMAGE)))
    return model


def _dict() -> keras.Model:
    image = keras.Input(IMAGE, name="image")
    return keras.Model({"image": image}, {"scores": layers.Conv2D(4, 3)(image)})


class Functional(keras.Model):
    """A user's class whose layers are its functional graph."""

    def __init__(self, filters: int):
        image = keras.Input(IMAGE)
        super().__init__(image, layers.Conv2D(filters, 3)(image))


def _used_elsewhere() -> keras.Model:
    """Layers that another model calls too."""
    conv = layers.Conv2D(3, 3, padding="same")
    functional(lambda x: conv(conv(x)))
    return functional(conv)


def _dtype(policy: str) -> Callable[[], keras.Model]:
    return lambda: chain(
        layers.Conv2D(4, 3, activation="relu", dtype=policy),
        layers.BatchNormalization(dtype=policy),
        layers.Flatten(dtype=policy),
        layers.Dense(3, dtype=policy),
    )


SUPPORTED: dict[str, Callable[[], keras.Model]] = {
    "MobileNet": _keras_application("MobileNet", alpha=0.25, classes=10),
    "MobileNetV2": _keras_application("MobileNetV2", alpha=0.35, classes=10),
    "ResNet": resnet,
    "DS-CNN": ds_cnn,
    "separable": lambda: chain(layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu")),
    "depthwise": lambda: chain(layers.DepthwiseConv2D((3, 2), depth_multiplier=2)),
    "padding": lambda: chain(layers.ZeroPadding2D(((0, 1), (1, 0))), layers.Conv2D(4, 3, 2)),
    "pools": lambda: chain(
        layers.MaxPooling2D(2, 1), layers.AveragePooling2D(3, 2, "same"), layers.Reshape((-1, 1, 3))
    ),
    "global pools": lambda: functional(
        lambda x: layers.Concatenate()(
            [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
        )
    ),
    "global pool, keepdims": lambda: chain(
        layers.GlobalMaxPooling2D(keepdims=True), layers.Conv2D(2, 1)
    ),
    "batch norm": lambda: chain(layers.BatchNormalization(epsilon=0.1, center=False, scale=False)),
    "ReLU(2.5)": lambda: chain(layers.Conv2D(4, 3), layers.ReLU(2.5)),
    "ReLU object": lambda: chain(layers.Conv2D(4, 3, activation=layers.ReLU(0.5))),
    "Softmax object": lambda: chain(layers.Conv2D(4, 3, activation=layers.Softmax())),
    "ops.relu6": lambda: chain(layers.Conv2D(4, 3, activation=ops.relu6)),
    "tf.nn.relu": lambda: chain(layers.Conv2D(4, 3, activation=tf.nn.relu)),
    "operators": lambda: functional(
        lambda x: ops.softmax(
            ops.concatenate([ops.relu6(layers.Conv2D(3, 1)(x)) + x, ops.relu(x)], axis=-1)
        )
    ),
    "squeeze and excitation": lambda: functional(
        lambda x: layers.Multiply()(
            [
                layers.Dense(3, activation="sigmoid")(
                    layers.GlobalAveragePooling2D(keepdims=True)(x)
                ),
                layers.ReLU()(x),
            ]
        )
    ),
    # Of Keras 3, which is another than that of tf_keras.
    "hard sigmoid": lambda: chain(layers.Conv2D(4, 3), layers.Activation("hard_sigmoid")),
    "operators of a gate": lambda: functional(
        lambda x: ops.sigmoid(layers.Conv2D(3, 1)(x)) * ops.hard_sigmoid(layers.Dense(3)(x))
    ),
    "training only": lambda: chain(
        layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1),
        layers.RandomTranslation(0.1, 0.1), layers.RandomContrast(0.1),
        layers.RandomBrightness(0.1), layers.GaussianNoise(0.1, seed=3), layers.Conv2D(4, 3),
        layers.SpatialDropout2D(0.1, seed=1), layers.Identity(),
    ),
    "training=True, which predict overrides": lambda: functional(
        lambda x: layers.Dropout(0.5)(layers.Conv2D(4, 3)(x), training=True)
    ),
    "regularizers": lambda: chain(
        layers.Conv2D(
            4, 3, kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2), bias_constraint="non_neg",
            activity_regularizer="l1", kernel_initializer=keras.initializers.HeNormal(seed=1),
        )
    ),
    "nested": _nested,
    "nested with two": _two_inside,
    "Sequential built late": _built_late,
    "batch of one": lambda: functional(layers.Conv2D(4, 3), batch_size=1),
    "dictionaries": _dict,
    "subclass of functional": lambda: Functional(4),
    "layer used elsewhere": _used_elsewhere,
    "odd names": lambda: chain(
        layers.Conv2D(4, 3, name="_a b:c"), layers.Conv2D(4, 3, name="_a_b:c")
    ),
    "mixed float16": _dtype("mixed_float16"),
    "bfloat16": _dtype("bfloat16"),
    "float64": _dtype("float64"),
}  # fmt: skip


@pytest.mark.parametrize("case", SUPPORTED)
def test_outputs_are_equal(case):
    model = randomize(SUPPORTED[case]())
    converted = to_tf_keras(model)
    assert isinstance(converted, tf_keras.Model)
    assert all(weight.dtype == tf.float32 for weight in converted.weights)
    shape = model.inputs[0].shape
    x = np.random.default_rng(1).normal(size=(shape[0] or 3, *shape[1:])).astype(np.float32)
    expected = model({"image": x} if case == "dictionaries" else x, training=False)
    expected = np.asarray(tf.nest.flatten(expected)[0], np.float32)
    exact = "float16" not in case
    tolerance = (TOLERANCE if exact else 0.05) * np.ptp(expected)
    np.testing.assert_allclose(converted(x, training=False), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["MobileNet", "MobileNetV2", "ResNet", "DS-CNN"])
def test_models_of_today_are_quantized(case):
    model = SUPPORTED[case]()
    assert tfmix.check(model) == []
    qmodel = tfmix.quantize_model(model, None, verbose=0)
    weighted = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    expected = {layer.name for layer in model.layers if isinstance(layer, weighted)}
    assert set(tfmix.get_policy(qmodel).weight_bits) == expected
    assert qmodel.output_shape == model.output_shape


def test_all_that_takes_a_float_model():
    model = randomize(ds_cnn())
    converted = to_tf_keras(model)
    policy = tfmix.QuantizationPolicy.uniform(model, 4)
    assert policy == tfmix.QuantizationPolicy.uniform(converted, 4)
    for settings_ in ({}, {"batch_norm": "fold", "weights": "per_layer"}):
        expected = tfmix.memory_report(converted, policy, **settings_)
        assert tfmix.memory_report(model, policy, **settings_) == expected
    x = np.random.default_rng(1).normal(size=(16, 49, 10, 1)).astype(np.float32)
    qmodels = [
        tfmix.quantize_model(m, None, policy=policy, calibration_data=x, verbose=0)
        for m in (model, converted)
    ]
    np.testing.assert_array_equal(*(qmodel(x, training=False) for qmodel in qmodels))


def test_the_model_is_not_changed():
    class Secret(keras.layers.Layer):
        def __init__(self, function):
            super().__init__()

        def call(self, x):
            return x

    for model in (resnet(), chain(Secret(print), layers.Conv2D(2, 3))):
        attributes = [set(vars(layer)) for layer in model.layers]
        weights = [weight.copy() for weight in model.get_weights()]
        tfmix.check(model)
        assert [set(vars(layer)) for layer in model.layers] == attributes
        for before, after in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(after, before)


def test_regularizers_and_frozen_layers_come_along():
    model = resnet()
    model.layers[4].trainable = False
    converted = to_tf_keras(model)
    layer = converted.get_layer(model.layers[4].name)
    assert layer.kernel_regularizer.get_config() == {"l2": pytest.approx(0.01)}
    assert not layer.trainable


def test_every_layer_that_is_read_is_one_of_keras_3_too():
    """Else a name in the reader's list would never be met by a Keras 3 model."""
    gone = {name for name in READABLE_LAYERS if not hasattr(layers, name)}
    assert gone <= {
        "BatchNormalizationV1",
        "BatchNormalizationV2",
        "SyncBatchNormalization",
    }


# -- what is refused ----------------------------------------------------------------------------


def swish(x):
    return x * ops.sigmoid(x)


def relu(x):
    return ops.relu(x) / 2


class Add(keras.layers.Layer):
    """A user's layer with the name of a stock one; its configuration cannot be had."""

    def __init__(self, function, name=None):
        super().__init__(name=name)
        self.function = function

    def call(self, x):
        return self.function(x)


class Doubled(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training)


class _Altered(keras.layers.Conv2D):
    """Says that it is Keras's own."""

    def call(self, inputs):
        return 2 * super().call(inputs)


_Altered.__name__, _Altered.__module__ = "Conv2D", "keras.src.layers.convolutional.conv2d"


class Subclassed(keras.Model):
    def call(self, x):
        return x


def _shared() -> keras.Model:
    layer = layers.Conv2D(3, 1, name="shared")
    return functional(lambda x: layer(layer(x)))


def _several() -> keras.Model:
    """Problems of either kind, around a layer that changes the shape."""

    def build(x: Any) -> Any:
        x = layers.Conv2D(4, 3, dilation_rate=2, name="first")(x)
        x = Add(lambda x: x[:, ::2, :, :2], name="mine")(x)
        x = layers.Conv2D(4, 1, groups=2, activation=swish, name="second")(x)
        return layers.LeakyReLU(name="leaky")(x)

    return functional(build)


def _quantized() -> keras.Model:
    model = chain(layers.Flatten(), layers.Dense(3, name="d"))
    model.quantize("int8")
    return model


def _lora() -> keras.Model:
    model = chain(layers.Flatten(), layers.Dense(3, name="d"))
    model.get_layer("d").enable_lora(2)
    return model


def _nan() -> keras.Model:
    model = chain(layers.Conv2D(2, 3, name="c"))
    model.set_weights([w * np.nan for w in model.get_weights()])
    return model


def _two_inputs() -> keras.Model:
    inputs = [keras.Input(IMAGE), keras.Input(IMAGE)]
    return keras.Model(inputs, layers.Add()(inputs), name="two")


def _unbuildable() -> keras.Model:
    """Its description holds what Keras 3 itself cannot write down."""
    function = eval("lambda x: x", {})  # without a source
    return chain(layers.Conv2D(2, 3, activation=function, name="c"))


#: What is refused -> (model, what each problem must say, in order).
REFUSED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "all at once": (
        _several,
        [
            "first (Conv2D): dilation_rate=(2, 2)",
            f"mine (Add): layer type {__name__}.Add is not supported",
            "second (Conv2D): groups=2",
            "second (Conv2D): activation='swish'",
            "leaky (LeakyReLU): layer type keras.layers.LeakyReLU is not supported",
        ],
    ),
    "channels first": (
        lambda: chain(
            layers.Conv2D(4, 3, data_format="channels_first", name="c"),
            layers.BatchNormalization(axis=1, name="b"),
            layers.GlobalAveragePooling2D(data_format="channels_first", name="p"),
        ),
        [
            "c (Conv2D): data_format='channels_first' is not supported, allowed: channels_last",
            "b (BatchNormalization): axis=[1]",
            "p (GlobalAveragePooling2D): data_format='channels_first'",
        ],
    ),
    "user's own relu": (
        lambda: chain(layers.Conv2D(4, 3, activation=relu, name="c")),
        ["c (Conv2D): activation='relu' is not supported, allowed: linear, relu"],
    ),
    "lambda": (
        lambda: chain(layers.Conv2D(4, 3, activation=lambda x: x, name="c")),
        ["c (Conv2D): activation='lambda'"],
    ),
    "lambda without source": (_unbuildable, ["c (Conv2D): Keras 3 cannot describe it"]),
    "negative slope": (
        lambda: chain(layers.ReLU(negative_slope=0.5, name="r")),
        ["r (ReLU): negative_slope=0.5 is not supported, allowed: 0"],
    ),
    "slope inside": (
        lambda: chain(layers.Conv2D(4, 3, activation=layers.ReLU(threshold=0.5), name="c")),
        ["c (Conv2D): threshold=0.5"],
    ),
    "renorm": (
        lambda: chain(layers.BatchNormalization(renorm=True, name="b")),
        ["b (BatchNormalization): renorm=True is not supported, allowed: False"],
    ),
    "quantized by Keras": (_quantized, ["d (Dense): dtype='QuantizedDTypePolicy'", "float32"]),
    "LoRA": (_lora, ["d (Dense): lora_rank=2 is not supported, allowed: None"]),
    "user's regularizer": (
        lambda: chain(layers.Conv2D(2, 3, kernel_regularizer=swish, name="c")),
        ["c (Conv2D): kernel_regularizer=", "one of Keras's regularizers"],
    ),
    "integers in": (
        lambda: functional(layers.Conv2D(2, 3), dtype="uint8"),
        ["image (InputLayer): dtype='uint8'", "allowed: float32"],
    ),
    "preprocessing": (
        lambda: chain(
            layers.Rescaling(1 / 255, name="r"), layers.Normalization(mean=0, variance=1, name="n")
        ),
        ["r (Rescaling): ", "apply the scaling to the data", "n (Normalization): ", "apply"],
    ),
    "operator": (
        lambda: functional(lambda x: layers.Conv2D(2, 3)(x) * 2),
        ["(Multiply): layer type keras.src.ops.numpy.Multiply is not supported (an operator"],
    ),
    "operator with a constant": (
        lambda: functional(lambda x: layers.Conv2D(2, 3)(x) + 2),
        ["(Add): layer type keras.src.ops.numpy.Add is not supported (an operator"],
    ),
    "constant": (
        lambda: functional(lambda x: layers.Add(name="a")([x, np.ones((1, *IMAGE), np.float32)])),
        ["a (Add): reads a constant tensor"],
    ),
    "Lambda": (lambda: chain(layers.Lambda(lambda x: x, name="l")), ["l (Lambda): layer type"]),
    "shared weights": (_shared, ["layer 'shared' is called more than once"]),
    "NaN": (_nan, ["c (Conv2D): kernel holds 54 NaN"]),
    "two inputs": (_two_inputs, ["two: 2 inputs and 1 outputs"]),
    "subclassed": (lambda: Subclassed(name="sub"), ["sub: a subclassed model"]),
    "subclassed inside": (
        lambda: functional(lambda x: layers.ReLU()(Subclassed(name="sub")(x))),
        [f"sub (Subclassed): layer type {__name__}.Subclassed is not supported"],
    ),
    "Sequential without input": (
        lambda: keras.Sequential([layers.Conv2D(4, 3)], name="seq"),
        ["seq: the Sequential model has no input shape yet: give it an Input"],
    ),
    "undefined input": (
        lambda: chain(layers.Conv2D(4, 3), shape=(None, None, 3)),
        ["image: input shape (None, None, 3) is not fully defined"],
    ),
    "a layer's own call": (
        lambda: chain(layers.Conv2D(2, 3, name="a"), _Altered(2, 1, name="b"), layers.ReLU()),
        ["b: converted from Keras 3, its outputs on random inputs differ by up to", "allowed"],
    ),
    "another call": (
        lambda: Doubled([keras.Input(IMAGE), layers.Conv2D(2, 3)], name="doubled"),
        ["doubled: converted from Keras 3, its outputs on random inputs differ by", "allowed"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    build, expected = REFUSED[case]
    model = build()
    problems = tfmix.check(model)
    text, position = "\n".join(problems), 0
    for part in expected:
        assert part in text[position:], f"{part!r} is not in {text[position:]!r}"
        position = text.index(part, position)
    if case == "all at once":
        assert len(problems) == len(expected)
    with pytest.raises(UnsupportedModelError) as error:
        tfmix.quantize_model(model, None, verbose=0)
    assert list(error.value.problems) == problems


# -- random models ------------------------------------------------------------------------------

_CHANNELS = st.integers(1, 5)
_PADDING = st.sampled_from(["same", "valid"])
_ACTIVATION = st.sampled_from([None, "relu", "relu6", "linear"])
_LAYERS = {
    "Conv2D": {
        "filters": _CHANNELS, "kernel_size": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.integers(1, 2), "padding": _PADDING, "use_bias": st.booleans(),
        "activation": _ACTIVATION,
    },
    "DepthwiseConv2D": {
        "kernel_size": st.integers(1, 3), "strides": st.integers(1, 2), "padding": _PADDING,
        "depth_multiplier": st.integers(1, 2), "activation": _ACTIVATION,
    },
    "SeparableConv2D": {
        "filters": _CHANNELS, "kernel_size": st.integers(1, 3), "padding": _PADDING,
    },
    "BatchNormalization": {
        "epsilon": st.floats(1e-4, 1e-1), "scale": st.booleans(), "center": st.booleans(),
    },
    "ReLU": {"max_value": st.one_of(st.none(), st.floats(0.5, 8))},
    "ZeroPadding2D": {"padding": st.integers(0, 2)},
    "MaxPooling2D": {
        "pool_size": st.just(2), "strides": st.integers(1, 2), "padding": st.just("same"),
    },
    "AveragePooling2D": {
        "pool_size": st.just(2), "strides": st.integers(1, 2), "padding": st.just("same"),
    },
    "Dense": {"units": _CHANNELS, "activation": _ACTIVATION},
}  # fmt: skip
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(name), st.fixed_dictionaries(options))
        for name, options in _LAYERS.items()
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25, deadline=None)
@given(_STEPS, st.integers(12, 15), st.integers(1, 4))
def test_random_models_come_out_the_same(steps, size, channels):
    made = [getattr(layers, name)(**options) for name, options in steps]
    model = randomize(chain(*made, shape=(size, size + 3, channels)))
    converted = to_tf_keras(model)
    assert [layer.name for layer in converted.layers][1:] == [layer.name for layer in made]
    x = np.random.default_rng(1).normal(size=(2, size, size + 3, channels)).astype(np.float32)
    expected = np.asarray(model(x))
    tolerance = TOLERANCE * (np.ptp(expected) + 1e-3)
    np.testing.assert_allclose(converted(x, training=False), expected, rtol=0, atol=tolerance)


# -- other backends, and what importing does ----------------------------------------------------

_OTHER_BACKEND = """
import keras, numpy, os, sys
assert keras.backend.backend() == sys.argv[1]
before = dict(os.environ)
import tfmix
from tfmix.frontend.keras3 import to_tf_keras
layers = keras.layers
model = keras.Sequential([
    keras.Input((7, 8, 2)), layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
    layers.DepthwiseConv2D(3, padding="same"), layers.BatchNormalization(), layers.ReLU(6.0),
    layers.AveragePooling2D(2, padding="same"), layers.Flatten(), layers.Dense(3, "softmax"),
])
x = numpy.random.default_rng(0).normal(size=(8, 7, 8, 2)).astype("float32")
expected = keras.ops.convert_to_numpy(model(x))
numpy.testing.assert_allclose(to_tf_keras(model)(x), expected, atol=1e-5)
print(tfmix.check(model), dict(os.environ) == before)
print(tfmix.check(keras.Sequential([keras.Input((6,)), layers.LeakyReLU(name="l")]))[0][:30])
"""


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_a_model_of_another_backend(backend):
    needed = "jax" if backend == "numpy" else backend  # Keras's numpy backend imports jax
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"no {needed}: pip install {needed}")
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_BACKEND, backend],
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[] True", "l (LeakyReLU): layer type kera"]


def test_keras_3_models_are_known_by_their_classes():
    assert isinstance(chain(layers.Flatten()), Keras3Model)
    assert isinstance(Subclassed(), Keras3Model)
    for other in (tf_keras.Sequential(), layers.Flatten(), "model", None):
        assert not isinstance(other, Keras3Model)
