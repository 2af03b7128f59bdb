"""Models in files, of Keras 2 and 3: the same network comes out, or a message says why not."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import real_data
import tensorflow as tf
import tf_keras
from keras_models import chain, functional, random_inputs, small_cnn

import tfmix
from tfmix.errors import FormatError, TfmixError, UnsupportedModelError
from tfmix.frontend.keras import read
from tfmix.frontend.keras3 import to_tf_keras
from tfmix.frontend.loading import as_tf_keras

layers = tf_keras.layers


def small_keras3() -> keras.Model:
    """Small_cnn of Keras 3, inside another model."""
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False, name="conv"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.ReLU(max_value=6),
            keras.layers.DepthwiseConv2D(3, padding="same", name="dw"),
        ]
    )
    image = keras.Input((8, 9, 3), name="image")
    x = skip = inner(image)
    x = keras.layers.Add()([keras.layers.Conv2D(6, 1, name="conv")(x), skip])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(5, activation="softmax")(x), name="small")
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(rng.normal(size=w.shape)) for w in model.get_weights()])
    return model


# -- what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "saved_model"])
def test_files_of_keras_2(name, compiled, tmp_path):
    model = small_cnn()
    if compiled:  # with an optimizer of the user's, whom nobody needs
        model.compile(tf_keras.optimizers.Adam(), "sparse_categorical_crossentropy", ["accuracy"])
    model.save(tmp_path / name)
    loaded = as_tf_keras(tmp_path / name)
    assert read(loaded).graph == read(model).graph
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_files_of_keras_3(name, compiled, tmp_path):
    model = small_keras3()
    if compiled:
        model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", ["accuracy"])
    model.save(tmp_path / name)
    loaded, expected = as_tf_keras(str(tmp_path / name)), to_tf_keras(model)
    assert read(loaded).graph == read(expected).graph
    x = random_inputs(expected, 4)
    np.testing.assert_array_equal(loaded(x), expected(x))
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-5)


def test_names_with_slashes(tmp_path):
    """Keras 2 allows them, and an .h5 file makes folders of them."""
    model = chain(layers.Conv2D(4, 3, name="block/conv"), layers.Conv2D(4, 3, name="block/conv_"))
    model.save(tmp_path / "model.h5")
    assert read(as_tf_keras(tmp_path / "model.h5")).graph == read(model).graph


def test_all_that_takes_a_float_model(tmp_path):
    path = tmp_path / "model.keras"
    model = small_keras3()
    model.save(path)
    policy = tfmix.QuantizationPolicy.uniform(str(path), 4)
    assert policy == tfmix.QuantizationPolicy.uniform(model, 4)
    assert tfmix.check(path) == []
    assert tfmix.memory_report(path, policy) == tfmix.memory_report(model, policy)
    qmodel = tfmix.quantize_model(path, None, policy=policy, verbose=0)
    assert tfmix.get_policy(qmodel) == policy


@pytest.mark.parametrize("name", ["fake_quant.keras", "fake_quant.h5"])
def test_a_fake_quant_model_is_one_in_a_file_too(name, tmp_path):
    qmodel = tfmix.quantize_model(small_cnn(), None, verbose=0)
    qmodel.save(tmp_path / name)
    assert tfmix.check(tmp_path / name) == []
    assert tfmix.memory_report(tmp_path / name) == tfmix.memory_report(qmodel)
    with pytest.raises(TfmixError, match="a fake-quant model already"):
        tfmix.quantize_model(tmp_path / name, None)


@pytest.mark.parametrize("name", real_data.MODELS)
def test_real_models_by_way_of_keras_3(name):
    """The networks of Keras 2 built in Keras 3 and converted back are what they were."""
    path = real_data.path(f"models/{name}.h5")
    expected = as_tf_keras(path)
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"].pop("groups", None)  # which Keras 3 does not know
    model = keras.Model.from_config(config["config"])
    model.set_weights(expected.get_weights())
    found = to_tf_keras(model)
    assert read(found).graph.nodes == read(expected).graph.nodes
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# -- what does not ------------------------------------------------------------------------------


class Scale(layers.Layer):
    """A user's layer, not registered."""

    def build(self, shape):
        self.scale = self.add_weight("scale", (shape[-1],))

    def call(self, x):
        return x * self.scale


class Scale3(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return self.scale * x[:, ::2, :, :]


def half(x):
    return x / 2


def _custom() -> tf_keras.Model:
    def build(x: Any) -> Any:
        x = layers.Conv2D(4, 3, dilation_rate=2, name="first")(Scale(name="scale")(x))
        return layers.Dense(3, activation=half, name="last")(layers.Flatten()(x))

    return functional(build)


def _custom3() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 9, 3)),
            Scale3(name="scale"),
            keras.layers.Conv2D(4, 2, dilation_rate=2, name="first"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=half, name="last"),
        ]
    )


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (_custom, "model.keras"),
        (_custom, "model.h5"),
        (_custom, "saved_model"),
        (_custom3, "model.keras"),
        (_custom3, "model.h5"),
    ],
)
def test_a_list_of_all_that_is_the_users_own(build, name, tmp_path):
    """Though neither Keras can load the file without the user's code."""
    build().save(tmp_path / name)
    problems = tfmix.check(tmp_path / name)
    assert [problem.split(" is not")[0].split(".")[-1] for problem in problems] == [
        build().get_layer("scale").__class__.__name__,
        "first (Conv2D): dilation_rate=(2, 2)",
        "last (Dense): activation='half'",
    ]
    with pytest.raises(UnsupportedModelError) as error:
        tfmix.quantize_model(tmp_path / name, None)
    assert list(error.value.problems) == problems


class _Own(tf_keras.Model):
    def call(self, x):
        return x


class _Own3(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("kind", "name"), [(_Own, "model.keras"), (_Own, "saved_model"), (_Own3, "model.keras")]
)
def test_a_subclassed_model(kind, name, tmp_path):
    model = kind(name="own")
    model(np.zeros((1, 8, 9, 3), np.float32))
    model.save(tmp_path / name)
    (problem,) = tfmix.check(tmp_path / name)
    assert "a subclassed model; only Sequential and functional models can be read" in problem


def _weights_only(path: Path) -> Path:
    small_keras3().save_weights(path / "model.weights.h5")
    return path / "model.weights.h5"


def _truncated(path: Path) -> Path:
    small_keras3().save(path / "model.keras")
    content = (path / "model.keras").read_bytes()
    (path / "model.keras").write_bytes(content[: len(content) // 2])
    return path / "model.keras"


def _without_weights(path: Path) -> Path:
    """A file that describes a model and has lost its weights."""
    small_keras3().save(path / "whole.keras")
    whole, rest = zipfile.ZipFile(path / "whole.keras"), zipfile.ZipFile(path / "model.keras", "w")
    with whole, rest:
        for part in ("metadata.json", "config.json"):
            rest.writestr(part, whole.read(part))
    return path / "model.keras"


def _other_archive(path: Path) -> Path:
    with zipfile.ZipFile(path / "model.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", json.dumps({"layers": 5}))
    return path / "model.keras"


def _other_hdf5(path: Path) -> Path:
    with h5py.File(path / "model.h5", "w") as file:
        file.attrs["model_config"] = "{"
    return path / "model.h5"


def _text(path: Path) -> Path:
    (path / "model.keras").write_text("a model")
    return path / "model.keras"


def _empty_directory(path: Path) -> Path:
    return path


def _damaged_saved_model(path: Path) -> Path:
    small_cnn().save(path / "model")
    (path / "model" / "keras_metadata.pb").write_bytes(b"\xff" * 100)
    return path / "model"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere.keras", "nowhere.keras: no such file"),
        (_weights_only, "holds weights without a model: .*load_weights"),
        (_truncated, "model.keras: .*allowed: a .keras file, an .h5 file"),
        (_without_weights, "model.keras: Keras 3 cannot load it"),
        (_other_archive, "model.keras: Keras 3 cannot load it"),
        (_other_hdf5, "model.h5: "),
        (_text, "model.keras: not a model; allowed: a .keras file, an .h5 file"),
        (_empty_directory, "not a SavedModel; allowed"),
        (_damaged_saved_model, "Keras 2 cannot load it"),
    ],
)
def test_refuses(make: Callable[[Path], Path], message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(FormatError, match=message) as error:
        tfmix.quantize_model(path, None)
    assert tfmix.check(path) == [str(error.value)]


@pytest.mark.parametrize("writer", ["model.export", "tf.saved_model.save"])
def test_a_saved_model_without_layers(writer, tmp_path):
    if writer == "model.export":
        small_keras3().export(tmp_path / "model", verbose=False)
    else:
        tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    with pytest.raises(UnsupportedModelError, match="without layers .*save the model itself"):
        as_tf_keras(tmp_path / "model")
