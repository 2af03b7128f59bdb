"""Keras 3 model -> tf_keras model, by configuration and weights.

A Keras 3 model describes itself as nested dictionaries, in memory (`serialize_keras_object`) as in
a file. `_Conversion` walks them, makes each layer anew in tf_keras and calls it where the original
was called. A layer that tf_keras cannot have leaves a stand-in of its output shape, so that the
reader behind (`frontend.keras`) names it, and everything else that is wrong, at once. Keras 3 is
imported only where a model or file of its is at hand; any backend will do.
"""

from __future__ import annotations

import abc
import copy
import inspect
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import FormatError, UnsupportedModelError
from tfmix.frontend.keras import (
    IDENTITY_LAYERS,
    READABLE_LAYERS,
    LayerProblems,
    hard_sigmoid_6,
    not_functional,
    problems_of,
)

#: Largest difference allowed between the outputs before and after, as a share of their spread
#: (largest minus smallest). Sums in another order made 1e-5 of it in InceptionV3, the most seen.
TOLERANCE = 1e-4

Description = Mapping[str, Any]  # what serialize_keras_object gives
_Tensor = tuple[str, int, int]  # (layer, call of the layer, output of the call)


class Keras3Model(abc.ABC):  # noqa: B024
    """isinstance(model, Keras3Model): known by where its classes come from, without importing
    Keras 3."""

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        return any(
            base.__name__ == "Model" and base.__module__.split(".")[0] == "keras"
            for base in kind.__mro__
        )


def to_tf_keras(model: Any) -> tf_keras.Model:
    """The same network in tf_keras. `model`, a Keras 3 model, is not changed.

    Weights and arithmetic become float32, whatever the model's dtype policies. What the layers and
    the model give on random inputs must agree with Keras 3 to `TOLERANCE`.

    Raises UnsupportedModelError with every layer and setting that tfmix does not take.
    """
    import keras

    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise UnsupportedModelError([not_functional(model.name, sequential=False)])
    description = _describe(model)
    conversion = _Conversion()
    converted = conversion.model(description, model)
    conversion.copy_weights()
    problems = conversion.all_problems(converted)
    if problems:
        raise UnsupportedModelError(problems)
    original = _in_float32(model, description) if conversion.reduced else model
    _verify(original, converted, conversion.tensors)
    return converted


def problems_of_description(description: Description) -> list[str]:
    """Every reason why a model cannot be read, from its description alone: of either Keras."""
    if "layers" not in description["config"]:
        name = description["config"].get("name", description["class_name"])
        return [not_functional(name, sequential=False)]
    conversion = _Conversion()
    return conversion.all_problems(conversion.model(description))


# -- describing ---------------------------------------------------------------------------------


def _describe(model: Any) -> Description:
    """What a `.keras` file would hold of the model."""
    import keras

    stock = type(model).__module__.split(".")[0] == "keras"
    if not stock and not isinstance(model, keras.Sequential):
        # A user's subclass of the functional model describes its arguments, not its layers.
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    described = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of functions that are not registered
        try:
            for layer in _layers_in(model):
                try:
                    keras.saving.serialize_keras_object(layer)
                except Exception as error:  # a user's layer may raise anything
                    config = {"name": layer.name, _UNDESCRIBED: first_line(error)}
                    vars(layer)["get_config"] = lambda config=config: config
                    described.append(layer)
            return keras.saving.serialize_keras_object(model)
        finally:
            for layer in described:
                del vars(layer)["get_config"]


#: A setting of ours, of layers without a description: why Keras 3 gives none.
_UNDESCRIBED = "undescribed"


def _layers_in(model: Any) -> Iterator[Any]:
    """Layers and operators of a Keras 3 model, those of a nested model before itself."""
    for layer in getattr(model, "operations", None) or getattr(model, "layers", ()):
        if isinstance(layer, Keras3Model):
            yield from _layers_in(layer)
        yield layer


# -- settings -----------------------------------------------------------------------------------

#: Keras 3 modules whose operators, which appear in a model like layers, are layers of tf_keras.
_OPERATORS = {
    ("keras.src.ops.numpy", "Add"): ("Add", {}),
    ("keras.src.ops.numpy", "Concatenate"): ("Concatenate", {}),
    ("keras.src.ops.numpy", "Multiply"): ("Multiply", {}),
    ("keras.src.ops.nn", "HardSigmoid"): ("Activation", {"activation": "hard_sigmoid"}),
    ("keras.src.ops.nn", "Relu"): ("ReLU", {}),
    ("keras.src.ops.nn", "Relu6"): ("ReLU", {"max_value": 6.0}),
    ("keras.src.ops.nn", "Sigmoid"): ("Activation", {"activation": "sigmoid"}),
    ("keras.src.ops.nn", "Softmax"): ("Softmax", {}),
}
_FLOATS = "float32, or float16, bfloat16, float64, mixed_float16, mixed_bfloat16 (become float32)"
_ACTIVATIONS = {
    **{name: tf_keras.activations.get(name) for name in ("linear", "relu", "relu6", "softmax")},
    "sigmoid": tf_keras.activations.sigmoid,
    "hard_sigmoid": hard_sigmoid_6,  # that of tf_keras is another
}


def _dtype(value: Any) -> Any:
    """Name of a dtype policy, which Keras 3 gives as a dictionary; a quantized one whole."""
    if isinstance(value, Mapping):
        name = value.get("config", {}).get("name")
        return name if value.get("class_name") == "DTypePolicy" else value.get("class_name")
    return value


def _function_like(name: str) -> Callable[[Any], Any]:
    """Stands in for an activation tf_keras has not: the reader refuses it by its name."""

    def function(x: Any) -> Any:
        return x

    function.__name__ = name
    return function


def _activation(value: Any, original: Any) -> Any:
    """The activation of tf_keras, or a function of the name that the reader refuses.

    original: the Keras 3 layer, where there is one: Keras 3 describes a user's own `relu` as if it
    were its own.
    """
    if isinstance(value, Mapping):
        kind = value.get("class_name")
        if kind in ("ReLU", "Softmax") and _is_keras(value):
            layer = getattr(tf_keras.layers, kind)
            return layer(**_settings(value["config"], layer, None, LayerProblems(kind, kind)))
        name = value.get("config") if kind == "function" else kind
        return _function_like(str(name or "lambda"))
    function = getattr(original, "activation", None)
    home = (getattr(function, "__module__", None) or "keras").split(".")[0]
    if value in _ACTIVATIONS and home in ("keras", "tensorflow", "jax", "torch"):
        return _ACTIVATIONS[value]
    return _function_like(str(value))


#: Settings that are another thing in tf_keras, by the end of their name: None where they say
#: nothing about a trained network, else their namespace in tf_keras.
_OBJECTS = {
    "_initializer": None,
    "_regularizer": tf_keras.regularizers,
    "_constraint": tf_keras.constraints,
}
#: Settings that say nothing about a trained network.
_DROPPED = frozenset({"dtype", "seed", "autocast", "batch_shape", "batch_input_shape"})
#: Settings of Keras 3 that never stand alone: `dtype` and `lora_rank` tell.
_TOLD_BY_OTHERS = frozenset({"quantization_config", "lora_alpha"})


def _settings(
    config: Mapping[str, Any], kind: type, original: Any, problems: LayerProblems
) -> dict[str, Any]:
    """Keras 3 settings as those of `kind`, a class of tf_keras.layers."""
    known = inspect.signature(kind.__init__).parameters
    settings: dict[str, Any] = {}
    for name, value in config.items():
        suffix = next((end for end in _OBJECTS if name.endswith(end)), None)
        if name in _DROPPED or (suffix and not _OBJECTS[suffix]) or value is None:
            continue
        if suffix:
            try:
                plain = {"class_name": value["class_name"], "config": value["config"]}
                settings[name] = _OBJECTS[suffix].get(plain)
            except Exception:
                named = value.get("class_name") if isinstance(value, Mapping) else value
                problems.unless(False, name, named, f"None or one of Keras's {suffix[1:]}s")
        elif name == "activation":
            settings[name] = _activation(value, original)
        elif name in known or name in ("name", "trainable"):
            settings[name] = _plain(value)
        elif kind.__name__ not in IDENTITY_LAYERS and name not in _TOLD_BY_OTHERS:
            allowed = _keras_default(kind.__name__, name)
            problems.unless(value == allowed, name, value, repr(allowed))
    return settings


def _keras_default(layer: str, setting: str) -> Any:
    """Default in Keras 3 of a setting that tf_keras does not know: it keeps what was before."""
    import keras

    parameter = inspect.signature(getattr(keras.layers, layer).__init__).parameters.get(setting)
    return None if parameter is None else parameter.default


def _plain(value: Any) -> Any:
    """A described value as a Python one, lists as tuples."""
    kind = value.get("class_name") if isinstance(value, Mapping) else None
    if kind in ("__tuple__", "TensorShape"):
        return _plain(value["items"])
    if kind in ("__numpy__", "__tensor__"):
        return np.asarray(value["config"]["value"], value["config"]["dtype"])
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _is_keras(description: Description) -> bool:
    """Whether a described class is Keras's own. An `.h5` file does not say: its loader, which
    finds Keras's own classes first, is believed."""
    return str(description.get("module", "keras")).split(".")[0] == "keras"


# -- converting ---------------------------------------------------------------------------------


class _StandIn(tf_keras.layers.Layer):
    """Gives tensors of known shape; its subclasses bear the names of the layers they stand for."""

    def __init__(self, shapes: list[tuple[int | None, ...]], name: str):
        super().__init__(name=name)
        self._shapes = shapes

    def call(self, inputs: Any) -> Any:
        outputs = [
            tf.compat.v1.placeholder_with_default(
                tf.zeros([1, *(size or 1 for size in shape[1:])]), [None, *shape[1:]]
            )
            for shape in self._shapes
        ]
        return outputs if len(outputs) > 1 else outputs[0]


class _Conversion:
    """Converts one model.

    reduced: the original computes, or stores, in another dtype.
    tensors: what each layer of the model, not of nested ones, gives; of one tensor each.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.reduced = False
        self.tensors: dict[str, Any] = {}
        self._copies: list[tuple[Any, tf_keras.layers.Layer]] = []
        self._explained: list[str] = []  # layers whose stand-ins the reader need not refuse again

    def all_problems(self, converted: tf_keras.Model) -> list[str]:
        read = problems_of(converted)
        known = tuple(f"{title}: layer type" for title in self._explained)
        return self.problems + [problem for problem in read if not problem.startswith(known)]

    def copy_weights(self) -> None:
        for original, layer in self._copies:
            arrays = [np.asarray(array, np.float32) for array in original.get_weights()]
            found, allowed = [a.shape for a in arrays], [tuple(w.shape) for w in layer.weights]
            if found == allowed:
                layer.set_weights(arrays)
                continue
            problems = LayerProblems(layer.name, type(layer).__name__)
            if not any(problem.startswith(problems.title) for problem in self.problems):
                problems.unless(False, "weights of shapes", found, str(allowed))
                self.problems += problems.found

    def model(self, description: Description, original: Any = None) -> tf_keras.Model:
        """The model described. `original` is the Keras 3 model whose weights to take, if any."""
        config = description["config"]
        if "output_layers" not in config:
            config = _as_functional(config)
        if config is None:
            return tf_keras.Sequential(name=_valid_name(description["config"]["name"]))
        originals = {}
        if original is not None:
            layers = getattr(original, "operations", original.layers)
            originals = {layer.name: layer for layer in layers}
        tensors: dict[_Tensor, Any] = {}
        shapes = dict(_described_tensors(config["layers"]))
        calls: deque[tuple[_Layer, int, list[Any], dict[str, Any]]] = deque()
        names = _valid_names(map(_name_of, config["layers"]))
        for entry in config["layers"]:
            name = _name_of(entry)
            if entry["class_name"] == "InputLayer":
                tensors[name, 0, 0] = self._input(entry, names[name])
                continue
            layer = _Layer(self, entry, names[name], originals.get(name))
            nodes = map(_arguments, entry.get("inbound_nodes", ()))
            calls += [(layer, index, *arguments) for index, arguments in enumerate(nodes)]
        waited = 0
        while calls:
            layer, index, args, kwargs = calls.popleft()
            if all(tensor in tensors for tensor, _ in _tensors_in((args, kwargs))):
                outputs = layer.call(
                    _with_tensors(args, tensors),
                    _with_tensors(kwargs, tensors),
                    layer.output_shapes(index, shapes),
                )
                tensors.update({(layer.name, index, i): t for i, t in enumerate(outputs)})
                waited = 0
            elif waited > len(calls):
                raise FormatError(f"{layer.name}: reads a tensor that no layer of the model gives")
            else:
                calls.append((layer, index, args, kwargs))
                waited += 1
        inputs, outputs = (
            [tensors[tensor] for tensor in _histories(config[key])]
            for key in ("input_layers", "output_layers")
        )
        # Nested models come to their end before the model does, which has the last word.
        self.tensors = {
            name: tensor
            for (name, _, _), tensor in tensors.items()
            if sum(other == name for other, _, _ in tensors) == 1
        }
        return tf_keras.Model(inputs, outputs, name=_valid_name(config["name"]))

    def _input(self, entry: Description, name: str) -> Any:
        config, problems = entry["config"], LayerProblems(name, "InputLayer")
        self.check_dtype(config, problems)
        for setting in ("sparse", "ragged"):
            problems.unless(not config.get(setting), setting, config.get(setting), "False")
        self.problems += problems.found
        shape = _plain(config.get("batch_shape") or config["batch_input_shape"])
        return tf_keras.Input(shape[1:], name=name)

    def check_dtype(self, config: Mapping[str, Any], problems: LayerProblems) -> None:
        dtype = _dtype(config.get("dtype") or "float32")
        problems.unless(dtype in _FLOATS.replace(",", "").split(), "dtype", dtype, _FLOATS)
        self.reduced = self.reduced or dtype != "float32"

    def copy(self, original: Any, layer: tf_keras.layers.Layer) -> None:
        self._copies.append((original, layer))

    def explain(self, problems: LayerProblems) -> None:
        self.problems += problems.found
        self._explained.append(problems.title)


class _Layer:
    """One layer of a described model: made when it is first called."""

    def __init__(self, conversion: _Conversion, entry: Description, valid_name: str, original: Any):
        self.name = _name_of(entry)
        self._valid_name = valid_name
        self._conversion = conversion
        self._entry = entry
        self._original = original
        self._made: Any = None

    def output_shapes(
        self, call: int, described: Mapping[_Tensor, Any]
    ) -> list[tuple[int | None, ...]]:
        """Shapes of the tensors that a call gives, as far as the layers that read them tell."""
        count = 1 + max([i for name, c, i in described if (name, c) == (self.name, call)] + [0])
        return [described.get((self.name, call, i)) for i in range(count)]

    def call(self, args: list[Any], kwargs: dict[str, Any], shapes: list[Any]) -> list[Any]:
        inputs = [t for t in tf.nest.flatten((args, kwargs)) if _is_symbolic(t)]
        x = inputs if len(inputs) > 1 else inputs[0]
        if self._made is None:
            self._made = self._make(inputs, args)
        if not isinstance(self._made, _Unmade):
            made, settings = self._made, {}
            if not isinstance(made, tf_keras.Model):
                x = args[0] if len(args) == 1 else args
                if kwargs.get("training") is not None:
                    settings["training"] = kwargs["training"]
            try:
                return tf.nest.flatten(made(x, **settings))
            except (TypeError, ValueError) as error:
                problems = LayerProblems(self._valid_name, self._entry["class_name"])
                problems.add(f"tf_keras cannot call it: {first_line(error)}")
                self._conversion.explain(problems)
                self._made = _Unmade(self._entry, self._original)
        if shapes == [None] and _output_of(self._original) is not None:
            shapes = [tuple(_output_of(self._original).shape)]
        shapes = [shape or tuple(inputs[0].shape) for shape in shapes]
        return tf.nest.flatten(self._made.stand_in(shapes, self._valid_name)(x))

    def _make(self, inputs: list[Any], args: list[Any]) -> Any:
        """A layer or model of tf_keras, or _Unmade."""
        entry, original = self._entry, self._original
        kind, config, stock = entry["class_name"], dict(entry["config"]), _is_keras(entry)
        if stock and kind in ("Functional", "Sequential", "Model") and "layers" in config:
            return self._conversion.model(entry, original)
        problems = LayerProblems(self._valid_name, kind)
        operator = _OPERATORS.get((entry.get("module"), kind))
        if operator and len(inputs) == len(tf.nest.flatten(args)):
            kind = operator[0]
            config |= operator[1]
        elif not stock or kind not in READABLE_LAYERS or ".ops." in entry.get("module", ""):
            return _Unmade(entry, original)
        if _UNDESCRIBED in config:
            problems.add(f"Keras 3 cannot describe it: {config[_UNDESCRIBED]}")
            self._conversion.explain(problems)
            return _Unmade(entry, original)
        self._conversion.check_dtype(config, problems)
        target = getattr(tf_keras.layers, kind)
        settings = _settings(config, target, original, problems)
        try:
            made = target(**{**settings, "name": self._valid_name})
        except (TypeError, ValueError) as error:
            problems.add(f"tf_keras cannot make it: {first_line(error)}")
            self._conversion.explain(problems)
            return _Unmade(entry, original)
        self._conversion.problems += problems.found
        if original is not None and not operator:
            self._conversion.copy(original, made)
        return made


class _Unmade:
    """A layer that tf_keras cannot have."""

    def __init__(self, entry: Description, original: Any):
        self._entry = entry
        own = "custom" if original is None else type(original).__module__
        self._module = entry.get("module") or own

    def stand_in(self, shapes: list[tuple[int | None, ...]], name: str) -> _StandIn:
        body = {"__module__": self._module}
        kind = type(self._entry["class_name"].split(">")[-1], (_StandIn,), body)
        return kind(shapes, name)


# -- descriptions of calls ----------------------------------------------------------------------


def _name_of(entry: Description) -> str:
    return entry.get("name") or entry["config"]["name"]


def _valid_name(name: str) -> str:
    """The name with characters that TensorFlow does not take replaced."""
    name = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"layer{name}"


def _valid_names(names: Iterable[str]) -> dict[str, str]:
    """Valid names, all different, for the names of one model; valid ones stay."""
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: _valid_name(name) != name):
        valid = _valid_name(name)
        while valid in chosen.values():
            valid += "_"
        chosen[name] = valid
    return chosen


def _output_of(layer: Any) -> Any:
    """What a Keras 3 layer gives; None if it is called more than once, or not at all."""
    return layer.output if len(getattr(layer, "_inbound_nodes", ())) == 1 else None


def _is_symbolic(value: Any) -> bool:
    return tf.is_tensor(value) and tf_keras.backend.is_keras_tensor(value)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _as_functional(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A Sequential's configuration in the form of a functional model's; None if it has no input."""
    layers = list(config["layers"])
    if not layers:
        return None
    if layers[0]["class_name"] != "InputLayer":
        own = layers[0]["config"]
        shape = config.get("build_input_shape") or own.get("batch_input_shape")
        if shape is None:
            return None
        entry = {"name": f"{config['name']}_input", "batch_shape": shape, "dtype": "float32"}
        layers.insert(0, {"class_name": "InputLayer", "config": entry})
    wired = [layers[0]]
    for layer in layers[1:]:
        shape = (layer.get("build_config") or {}).get("input_shape")
        tensor = {"shape": shape, "keras_history": [_name_of(wired[-1]), 0, 0]}
        node = {"args": [{"class_name": "__keras_tensor__", "config": tensor}], "kwargs": {}}
        wired.append({**layer, "inbound_nodes": [node]})
    ends = [[_name_of(layers[i]), 0, 0] for i in (0, -1)]
    return {**config, "layers": wired, "input_layers": ends[0], "output_layers": ends[1]}


def _arguments(node: Any) -> tuple[list[Any], dict[str, Any]]:
    """(args, kwargs) of a described call: in Keras 2 a list of [layer, call, output, kwargs].

    A `training` given in a call is the default of Keras 3, which inference overrides, and the law
    of Keras 2.
    """
    if isinstance(node, Mapping):
        return node["args"], {k: v for k, v in node["kwargs"].items() if k != "training"}
    if node and isinstance(node[0], str):
        node = [node]
    tensors = [
        {"class_name": "__keras_tensor__", "config": {"keras_history": list(item[:3])}}
        for item in node
    ]
    kwargs = node[0][3] if len(node[0]) > 3 else {}
    return [tensors if len(tensors) > 1 else tensors[0]], kwargs


def _tensors_in(value: Any) -> Iterator[tuple[_Tensor, Any]]:
    """Every tensor in a described structure, with its shape or None."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            config = value["config"]
            yield tuple(config["keras_history"]), config.get("shape")
            return
        value = value.values()
    if not isinstance(value, (str, bytes)) and hasattr(value, "__iter__"):
        for item in value:
            yield from _tensors_in(item)


def _described_tensors(layers: list[Description]) -> Iterator[tuple[_Tensor, Any]]:
    for entry in layers:
        for node in entry.get("inbound_nodes", ()):
            for tensor, shape in _tensors_in(_arguments(node)):
                yield tensor, None if shape is None else tuple(shape)


def _with_tensors(value: Any, tensors: Mapping[_Tensor, Any]) -> Any:
    """A described structure with the tensors in their places, and constants as constants."""
    if isinstance(value, Mapping):
        kind = value.get("class_name")
        if kind == "__keras_tensor__":
            return tensors[tuple(value["config"]["keras_history"])]
        if kind == "__tuple__":
            return _with_tensors(value["items"], tensors)
        if kind in ("__numpy__", "__tensor__"):
            return tf.constant(_plain(value))
        return {key: _with_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_tensors(item, tensors) for item in value]
    return value


def _histories(ends: Any) -> list[_Tensor]:
    """Inputs or outputs of a described model: one tensor, or a list or dictionary of them."""
    if isinstance(ends, Mapping):
        return [tensor for key in sorted(ends) for tensor in _histories(ends[key])]
    if len(ends) == 3 and isinstance(ends[0], str):
        return [tuple(ends)]
    return [tensor for end in ends for tensor in _histories(end)]


# -- verifying ----------------------------------------------------------------------------------


def _in_float32(model: Any, description: Description) -> Any:
    """The Keras 3 model with dtype float32 throughout, to compare with."""
    import keras

    def replaced(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: "float32" if key == "dtype" else replaced(item) for key, item in value.items()
            }
        return [replaced(item) for item in value] if isinstance(value, list) else value

    twin = keras.saving.deserialize_keras_object(replaced(copy.deepcopy(description)))
    twin.set_weights([np.asarray(array, np.float32) for array in model.get_weights()])
    return twin


def _verify(model: Any, converted: tf_keras.Model, tensors: Mapping[str, Any]) -> None:
    """Compares the outputs of layers and model on random inputs.

    tensors: the outputs in tf_keras of layers that are called once, by their names in Keras 3. The
    layers tell where a difference begins, and show one where the model's outputs hardly depend on
    its inputs, as before training.
    """
    import keras

    outputs = {
        layer.name: _output_of(layer)
        for layer in getattr(model, "operations", model.layers)
        if layer.name in tensors
    }
    names = [name for name, output in outputs.items() if output is not None]
    original_layers = keras.Model(model.inputs, [outputs[name] for name in names])
    layers = tf_keras.Model(converted.inputs, [tensors[name] for name in names])

    shape = (model.inputs[0].shape[0] or 2, *converted.input_shape[1:])
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    structure = getattr(model, "input", model.inputs[0])  # it may be a dictionary
    inputs = keras.tree.map_structure(lambda _: x, structure)
    expected = keras.tree.flatten(
        (original_layers([x], training=False), model(inputs, training=False))
    )
    found = tf.nest.flatten((layers(x, training=False), converted(x, training=False)))
    for name, a, b in zip([*names, converted.name], expected, found, strict=True):
        a, b = np.asarray(keras.ops.convert_to_numpy(a)), np.asarray(b)
        allowed = TOLERANCE * float(np.ptp(a)) + 1e-6 * float(np.abs(a).max())
        difference = float(np.abs(a - b).max())
        if not difference <= allowed:
            raise UnsupportedModelError(
                [
                    f"{name}: converted from Keras 3, its outputs on random inputs differ by up to "
                    f"{difference:.3g}, allowed: {allowed:.3g}; is a function or class of your "
                    "own in place of one of Keras's?"
                ]
            )
