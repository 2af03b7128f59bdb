"""Whatever holds a float model -> tf_keras model: Keras 2 and 3, in memory and in files."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import tf_keras
from tf_keras.protobuf.saved_metadata_pb2 import SavedMetadata

from tfmix.errors import FormatError, TfmixError, UnsupportedModelError
from tfmix.frontend.keras import is_revived, problems_of
from tfmix.frontend.keras3 import (
    Keras3Model,
    first_line,
    problems_of_description,
    to_tf_keras,
)
from tfmix.ir.graph import Graph, as_graph

#: Files of models, in the words of the messages.
_FORMATS = "a .keras file, an .h5 file, or a SavedModel directory of Keras 2"


def as_tf_keras(model: Any) -> Any:
    """`model` as a tf_keras.Model: a Keras 3 model or a path is converted or loaded; anything else
    comes back as it is.

    A path leads to a `.keras` or `.h5` file of Keras 2 or 3, or to a SavedModel directory that
    Keras 2 wrote with `model.save`. No model is compiled, and none changed.

    Raises:
      UnsupportedModelError: layers or settings that tfmix does not take, all listed; a SavedModel
        without layers.
      FormatError: no such file, or not one of a model.
    """
    if isinstance(model, Keras3Model):
        return to_tf_keras(model)
    if isinstance(model, (str, os.PathLike)):
        return _load(Path(model))
    return model


@as_graph.register(Keras3Model)
@as_graph.register(str)
@as_graph.register(os.PathLike)
def _(model: Any) -> Graph:
    return as_graph(as_tf_keras(model))


def _load(path: Path) -> tf_keras.Model:
    if not path.exists():
        raise FormatError(f"{path}: no such file or directory")
    if path.is_dir():
        return _load_saved_model(path)
    version, description = _describe(path)
    try:
        if version == "2":
            return tf_keras.models.load_model(path, compile=False)
        import keras

        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # a user's classes are missing, or the file is damaged
        try:
            problems = problems_of_description(description)
        except (AttributeError, IndexError, KeyError, TypeError):  # not a description either
            problems = []
        if problems:
            raise UnsupportedModelError(problems) from error
        raise FormatError(f"{path}: Keras {version} cannot load it: {first_line(error)}") from error
    return to_tf_keras(model)


def _describe(path: Path) -> tuple[str, Mapping[str, Any]]:
    """(major version of Keras, the model as Keras describes it) of a file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                version = json.loads(archive.read("metadata.json"))["keras_version"]
                description = json.loads(archive.read("config.json"))
        elif h5py.is_hdf5(path):
            with h5py.File(path) as file:
                if "model_config" not in file.attrs:
                    raise FormatError(
                        f"{path}: holds weights without a model: build the model and load them "
                        "with model.load_weights"
                    )
                # Keras 2.0 and older did not say who wrote them.
                version = file.attrs.get("keras_version", "2")
                description = json.loads(file.attrs["model_config"])
        else:
            raise FormatError(f"{path}: not a model; allowed: {_FORMATS}")
        version = version.decode() if isinstance(version, bytes) else version
    except TfmixError:
        raise
    except Exception as error:
        raise FormatError(f"{path}: {first_line(error)}; allowed: {_FORMATS}") from error
    return version.split(".")[0], description


def _load_saved_model(path: Path) -> tf_keras.Model:
    if not (path / "saved_model.pb").exists():
        raise FormatError(f"{path}: not a SavedModel; allowed: {_FORMATS}")
    if not (path / "keras_metadata.pb").exists():
        raise UnsupportedModelError(
            [
                f"{path}: a SavedModel of functions, without layers (no keras_metadata.pb), as "
                "model.export and tf.saved_model.save write it; save the model itself: "
                "model.save('model.keras')"
            ]
        )
    try:
        model = tf_keras.models.load_model(path, compile=False)
        metadata = SavedMetadata.FromString((path / "keras_metadata.pb").read_bytes())
        (root,) = (node for node in metadata.nodes if node.node_path == "root")
    except Exception as error:
        raise FormatError(f"{path}: Keras 2 cannot load it: {first_line(error)}") from error
    if any(map(is_revived, model.submodules)):
        problems = problems_of_description(json.loads(root.metadata))
        raise UnsupportedModelError(problems or problems_of(model))
    return model
