"""tf_keras model -> `ir.Graph` + float weights. Other models and files: see `loading`.

The model is read in four passes: nested models are flattened into a list of `_Call`s, one per
layer call (a SeparableConv2D gives two, a Dense with softmax too); batch norms and ReLUs are fused
into the call before them; the calls are put in order; signs are inferred. Problems are collected,
never raised one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfmix.errors import UnsupportedModelError
from tfmix.ir.graph import (
    WEIGHTED_OPS,
    BatchNorm,
    Graph,
    LayerWeights,
    Node,
    Op,
    TensorSpec,
    Window,
    same_padding,
)

#: Layers that do nothing at inference.
IDENTITY_LAYERS = frozenset(
    {
        "ActivityRegularization",
        "AlphaDropout",
        "Dropout",
        "GaussianDropout",
        "GaussianNoise",
        "Identity",
        "RandomBrightness",
        "RandomContrast",
        "RandomFlip",
        "RandomRotation",
        "RandomTranslation",
        "RandomZoom",
        "SpatialDropout1D",
        "SpatialDropout2D",
    }
)
_BATCH_NORM_LAYERS = frozenset(
    {
        "BatchNormalization",
        "BatchNormalizationV1",
        "BatchNormalizationV2",
        "SyncBatchNormalization",
    }
)

SUPPORTED_LAYERS = (
    "InputLayer, Conv2D, DepthwiseConv2D, SeparableConv2D, Dense, BatchNormalization, ReLU, "
    "Activation (linear, relu, relu6, sigmoid, hard_sigmoid, softmax), Add, Multiply, Concatenate, "
    "AveragePooling2D, MaxPooling2D, GlobalAveragePooling2D, GlobalMaxPooling2D, Flatten, Reshape, "
    "ZeroPadding2D, Softmax, Dropout and other training-only layers, and nested models of these"
)


@dataclass(frozen=True)
class Unwrapped:
    """What stands behind a wrapper layer: the layer itself, and its variables by attribute name.

    closed: the wrapper does something to the layer's output, so that no layer after it is fused.
    """

    layer: tf_keras.layers.Layer
    variables: Mapping[str, Any] = field(default_factory=dict)
    closed: bool = False


#: Looks behind a framework's wrapper.
Unwrap = Callable[[tf_keras.layers.Layer], Unwrapped]


@dataclass(frozen=True)
class KerasNetwork:
    """A model as read: its structure, float weights and original layers, the latter two by node
    name; batch norms' layers by `Node.batch_norm`."""

    graph: Graph
    weights: Mapping[str, LayerWeights]
    layers: Mapping[str, tf_keras.layers.Layer]


def read(model: tf_keras.Model, unwrap: Unwrap = Unwrapped) -> KerasNetwork:
    """Reads a tf_keras model.

    Raises UnsupportedModelError with every unsupported layer and setting at once.
    """
    problems, network = _read(model, unwrap)
    if problems:
        raise UnsupportedModelError(problems)
    assert network is not None
    return network


def problems_of(model: tf_keras.Model, unwrap: Unwrap = Unwrapped) -> list[str]:
    """Every reason why `model` cannot be read; empty where it can."""
    return _read(model, unwrap)[0]


def _read(model: Any, unwrap: Unwrap) -> tuple[list[str], KerasNetwork | None]:
    problem = _not_a_network(model)
    if problem:
        return [problem], None
    reader = _Reader(unwrap)
    reader.read(model)
    if reader.problems:
        return reader.problems, None
    needed = _in_order(reader.calls, reader.output)
    if all(call.op is Op.RESHAPE for call in needed):
        return [f"{model.name}: the model has no layers that compute"], None
    calls = _in_order(_fuse(needed, reader.output), reader.output)
    graph = _graph(reader, calls)
    weights = {c.name: c.weights for c in calls if c.weights is not None}
    return [], KerasNetwork(graph, weights, reader.layers)


def _not_a_network(model: Any) -> str | None:
    kind = type(model)
    if not isinstance(model, tf_keras.Model):
        return f"{kind.__module__}.{kind.__name__} is not a Keras model"
    if not getattr(model, "_is_graph_network", False):
        return not_functional(model.name, isinstance(model, tf_keras.Sequential))
    return None


def not_functional(name: str, sequential: bool) -> str:
    """What is wrong with a model, of whichever Keras, that has no graph of layers."""
    if sequential:
        return f"{name}: the Sequential model has no input shape yet: give it an Input"
    return f"{name}: a subclassed model; only Sequential and functional models can be read"


@dataclass
class _Call:
    """One operation of one layer, before fusion. `inputs` and `output` are tensor names."""

    op: Op
    name: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]
    window: Window | None = None
    padding: tuple[int, int, int, int] | None = None
    weights: LayerWeights | None = None
    batch_norm: str | None = None
    relu: bool = False
    relu_layer: str | None = None
    relu_max: float | None = None
    function: str | None = None
    closed: bool = False  # nothing is fused into it


class _Reader:
    """Flattens a model into calls. One instance reads one model."""

    def __init__(self, unwrap: Unwrap):
        self.unwrap = unwrap
        self.problems: list[str] = []
        self.calls: list[_Call] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.layers: dict[str, tf_keras.layers.Layer] = {}
        self.input = ""
        self.output = ""
        self._input_is_defined = True
        self._names: set[str] = set()
        self._weighted_layers_seen: set[int] = set()

    def read(self, model: tf_keras.Model) -> None:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            self.problems.append(
                f"{model.name}: {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
                "one of each is supported"
            )
        inputs = [self._unique(name) for name in model.input_names]
        for name, tensor in zip(inputs, model.inputs, strict=True):
            shape = self.shapes[name] = _shape_of(tensor)
            if None in shape or not shape:
                self._input_is_defined = False
                self.problems.append(
                    f"{name}: input shape {shape} is not fully defined; every dimension but the "
                    "batch must be known"
                )
        self.input, self.output = inputs[0], self._walk(model, inputs, prefix="")[0]

    def _unique(self, name: str, prefix: str = "") -> str:
        """A free name: the layer's own, with the nested model's in front where that is taken."""
        name = name.replace("/", "_")
        if name in self._names and prefix:
            name = f"{prefix}_{name}"
        candidate, i = name, 0
        while candidate in self._names:
            i += 1
            candidate = f"{name}_{i}"
        self._names.add(candidate)
        return candidate

    def _walk(self, model: tf_keras.Model, inputs: list[str], prefix: str) -> list[str]:
        """Reads `model` applied to the tensors `inputs`; returns its output tensors."""
        tensors = {id(t): name for t, name in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                names = [tensors[id(t)] for t in node.keras_inputs]
                produced = self._call(node, names, prefix)
                tensors.update(
                    {id(t): name for t, name in zip(_outputs(node), produced, strict=True)}
                )
        return [tensors[id(t)] for t in model.outputs]

    def _call(self, node: Any, inputs: list[str], prefix: str) -> list[str]:
        """Reads one layer call, a node of tf_keras; returns the names of the tensors it gives."""
        layer = node.layer
        if isinstance(layer, tf_keras.Model) and getattr(layer, "_is_graph_network", False):
            return self._walk(layer, inputs, f"{prefix}_{layer.name}" if prefix else layer.name)
        unwrapped = self.unwrap(layer)
        inner, kind = unwrapped.layer, _type_name(unwrapped.layer)
        outputs = _outputs(node)
        if kind in IDENTITY_LAYERS and not node.call_kwargs.get("training"):
            return inputs
        name = self._unique(inner.name, prefix)
        shape = self.shapes[name] = _shape_of(outputs[0])
        problems = LayerProblems(name, type(inner).__name__)
        if kind not in _HANDLERS and kind not in IDENTITY_LAYERS:
            problems.add(f"layer type {kind} is not supported{_hint(inner)}")
        elif None in shape and self._input_is_defined:
            problems.add(f"output shape {shape} is not fully defined")
        else:
            self._check_call(node, inner, problems)
            self.layers[name] = inner
            context = _Context(self, name, inner, unwrapped.variables, tuple(inputs), shape)
            calls_before = len(self.calls)
            if kind in _HANDLERS:
                _HANDLERS[kind](context, problems)
            calls = self.calls[calls_before:]
            if unwrapped.closed:
                self._close(calls, context)
            if len(shape) > 3 and any(call.op is not Op.RESHAPE for call in calls):
                problems.add(f"output shape {shape} has {len(shape)} dimensions, allowed: 1 to 3")
            name = context.result
        self.problems += problems.found
        return [name] * len(outputs)

    def _close(self, calls: list[_Call], context: _Context) -> None:
        """The layer's wrapper closes its output. A layer that is nothing but that, and stands
        behind another, gives it its name."""
        if not calls and context.result != self.input:
            calls = [call for call in self.calls if call.output == context.result]
            for call in calls:
                call.output = context.result = context.name
        for call in calls:
            call.closed = True

    def _check_call(self, node: Any, layer: tf_keras.layers.Layer, problems: LayerProblems) -> None:
        """What may be wrong with a call of any layer."""
        if layer.weights and id(layer) in self._weighted_layers_seen:
            problems.add(
                f"layer {layer.name!r} is called more than once (shared weights are not supported)"
            )
        self._weighted_layers_seen.add(id(layer))
        # Under mixed precision weights are float32, and that is what counts here.
        if layer.variable_dtype != "float32":
            problems.add(f"dtype {layer.variable_dtype} is not supported, allowed: float32")
        arguments = tf.nest.flatten((node.call_args, node.call_kwargs))
        if sum(map(tf.is_tensor, arguments)) > len(node.keras_inputs):
            problems.add("reads a constant tensor; only tensors of the network are supported")
        if node.call_kwargs.get("training"):
            problems.add("is called with training=True, so that inference would be random")


def _outputs(node: Any) -> list[Any]:
    """The tensors that a layer call gives."""
    return tf.nest.flatten(node.outputs)


def _shape_of(tensor: Any) -> tuple[int | None, ...]:
    """Shape of a Keras tensor without the batch; (None,) where not even its rank is known."""
    shape = tf.TensorShape(tensor.shape)
    return (None,) if shape.rank is None else tuple(shape[1:])


def _type_name(layer: tf_keras.layers.Layer) -> str:
    """Name of the layer's type: of one that is not tf_keras's own the full one, so that a user's
    class `Add` is not taken for the layer."""
    kind = type(layer)
    stock = kind.__module__.split(".")[0] == "tf_keras" and not is_revived(layer)
    return kind.__name__ if stock else f"{kind.__module__}.{kind.__name__}"


def is_revived(layer: tf_keras.layers.Layer) -> bool:
    """Whether a SavedModel gave back a layer's functions in place of its class."""
    return type(layer).__module__.endswith(".saved_model.load")


class LayerProblems:
    """Collects what is wrong with one layer. `kind` is the name of its class."""

    def __init__(self, name: str, kind: str):
        self.title = f"{name} ({kind})"
        self.found: list[str] = []

    def add(self, text: str) -> None:
        self.found.append(f"{self.title}: {text}")

    def unless(self, ok: bool, what: str, value: Any, allowed: str) -> None:
        if not ok:
            self.add(f"{what}={value!r} is not supported, allowed: {allowed}")


def _hint(layer: tf_keras.layers.Layer) -> str:
    kind = _type_name(layer)
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return f" (the operator {layer.name!r}; use tf_keras.layers.Add, Multiply or another layer)"
    if ".ops." in kind:
        return f" (an operator; use a layer of Keras; supported: {SUPPORTED_LAYERS})"
    if type(layer).__name__ in ("Rescaling", "Normalization"):
        return " (apply the scaling to the data, or leave it out where a batch norm follows)"
    return f"; supported: {SUPPORTED_LAYERS}"


@dataclass
class _Context:
    """What a handler sees of one layer call; `result` is the tensor the layer gives."""

    reader: _Reader
    name: str
    layer: tf_keras.layers.Layer
    variables: Mapping[str, Any]
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    result: str = ""

    def __post_init__(self) -> None:
        self.result = self.name

    def array(self, attribute: str) -> np.ndarray | None:
        """Value of a weight, the wrapper's variable first."""
        value = self.variables.get(attribute, getattr(self.layer, attribute, None))
        return None if value is None else np.asarray(value, np.float32)

    def input_shape(self, index: int = 0) -> tuple[int, ...]:
        return self.reader.shapes[self.inputs[index]]

    def emit(self, op: Op, **fields: Any) -> _Call:
        """Adds a call named after the layer, unless `fields` say otherwise."""
        call = _Call(
            op=op,
            name=fields.pop("name", self.name),
            inputs=fields.pop("inputs", self.inputs),
            output=fields.pop("output", self.name),
            shape=fields.pop("shape", self.shape),
            **fields,
        )
        self.reader.shapes[call.output] = call.shape
        self.reader.calls.append(call)
        return call

    def derived_name(self, suffix: str) -> str:
        return self.reader._unique(f"{self.name}_{suffix}")


# -- activations ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Activation:
    relu: bool = False
    relu_max: float | None = None
    softmax: bool = False
    function: str | None = None  # one of ir.graph.FUNCTIONS


@tf_keras.utils.register_keras_serializable(package="tfmix")
def hard_sigmoid_6(x: Any) -> tf.Tensor:
    """relu6(x + 3) / 6: what Keras 3 calls hard_sigmoid, as do Howard et al. 2019 (MobileNetV3)."""
    return tf.clip_by_value(x / 6.0 + 0.5, 0.0, 1.0)


#: The functions of ir.graph.FUNCTIONS as activations of a layer.
LOOKUP_ACTIVATIONS: dict[str, Callable[[Any], tf.Tensor]] = {
    "sigmoid": tf_keras.activations.sigmoid,
    "hard_sigmoid": tf_keras.activations.hard_sigmoid,
    "hard_sigmoid_6": hard_sigmoid_6,
}


def _relu_settings(layer: tf_keras.layers.ReLU, problems: LayerProblems) -> _Activation:
    slope, threshold = float(layer.negative_slope), float(layer.threshold)
    problems.unless(slope == 0, "negative_slope", slope, "0")
    problems.unless(threshold == 0, "threshold", threshold, "0")
    top = None if layer.max_value is None else float(layer.max_value)
    problems.unless(top is None or top > 0, "max_value", top, "None or a positive number")
    return _Activation(relu=True, relu_max=top)


#: By the functions themselves: a user may have written another `relu`.
_ACTIVATIONS: dict[Any, _Activation] = {
    tf_keras.activations.linear: _Activation(),
    tf_keras.activations.relu: _Activation(relu=True),
    tf.nn.relu: _Activation(relu=True),
    tf.nn.relu6: _Activation(relu=True, relu_max=6.0),
    tf_keras.activations.softmax: _Activation(softmax=True),
    tf.nn.softmax: _Activation(softmax=True),
    tf.nn.sigmoid: _Activation(function="sigmoid"),
    **{f: _Activation(function=name) for name, f in LOOKUP_ACTIVATIONS.items()},
}


def _activation(function: Any, problems: LayerProblems) -> _Activation:
    if isinstance(function, tf_keras.layers.ReLU):
        return _relu_settings(function, problems)
    if isinstance(function, tf_keras.layers.Softmax) and function.axis == -1:
        return _Activation(softmax=True)
    for known, activation in _ACTIVATIONS.items():
        if function is known:
            return activation
    name = getattr(function, "__name__", type(function).__name__)
    problems.unless(
        False,
        "activation",
        name,
        "linear, relu, relu6, sigmoid, hard_sigmoid, softmax as tf_keras and tf.nn define them",
    )
    return _Activation()


def _emit_with_activation(context: _Context, problems: LayerProblems, op: Op, **fields: Any):
    """Emits a weighted call and what the layer's own `activation=` asks for."""
    activation = _activation(context.layer.activation, problems)
    context.emit(op, relu=activation.relu, relu_max=activation.relu_max, **fields)
    if activation.softmax or activation.function:
        name = context.derived_name(activation.function or "softmax")
        _emit_activation(context, activation, name=name, inputs=(context.name,), output=name)
        context.result = name


def _emit_activation(context: _Context, activation: _Activation, **fields: Any) -> None:
    """Emits a softmax or a lookup."""
    op = Op.SOFTMAX if activation.softmax else Op.LOOKUP
    context.emit(op, function=activation.function, **fields)


# -- layers -----------------------------------------------------------------------------------


def _window(context: _Context, problems: LayerProblems, kernel, strides, padding) -> Window | None:
    layer, shape = context.layer, context.input_shape()
    problems.unless(
        getattr(layer, "data_format", "channels_last") == "channels_last",
        "data_format",
        layer.data_format,
        "channels_last",
    )
    dilation = tuple(getattr(layer, "dilation_rate", (1, 1)))
    problems.unless(dilation == (1, 1), "dilation_rate", dilation, "(1, 1)")
    problems.unless(padding in ("same", "valid"), "padding", padding, "'same', 'valid'")
    if len(shape) != 3:
        problems.add(f"input shape {shape} is not (rows, columns, channels)")
    if problems.found or None in shape:
        return None
    kernel, strides = tuple(kernel), tuple(strides)
    if padding == "valid":
        return Window(kernel, strides)
    rows = same_padding(shape[0], kernel[0], strides[0])
    columns = same_padding(shape[1], kernel[1], strides[1])
    return Window(kernel, strides, (*rows, *columns))


def _check_finite(weights: LayerWeights, problems: LayerProblems) -> None:
    bn = weights.batch_norm
    arrays = {"kernel": weights.kernel, "bias": weights.bias}
    if bn is not None:
        arrays |= {"gamma": bn.gamma, "beta": bn.beta, "mean": bn.mean, "variance": bn.variance}
    for what, values in arrays.items():
        if values is not None and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            problems.add(f"{what} holds {count} NaN or infinite value(s); all must be finite")
    if bn is not None and (bn.variance + bn.epsilon <= 0).any():
        problems.add("moving variance + epsilon must be positive in every channel")


def _conv2d(context: _Context, problems: LayerProblems) -> None:
    layer = context.layer
    problems.unless(layer.groups == 1, "groups", layer.groups, "1")
    window = _window(context, problems, layer.kernel_size, layer.strides, layer.padding)
    weights = LayerWeights(context.array("kernel"), context.array("bias"))
    _check_finite(weights, problems)
    _emit_with_activation(context, problems, Op.CONV2D, window=window, weights=weights)


def _depthwise_conv2d(context: _Context, problems: LayerProblems) -> None:
    layer = context.layer
    window = _window(context, problems, layer.kernel_size, layer.strides, layer.padding)
    weights = LayerWeights(context.array("depthwise_kernel"), context.array("bias"))
    _check_finite(weights, problems)
    _emit_with_activation(context, problems, Op.DEPTHWISE_CONV2D, window=window, weights=weights)


def _separable_conv2d(context: _Context, problems: LayerProblems) -> None:
    layer = context.layer
    window = _window(context, problems, layer.kernel_size, layer.strides, layer.padding)
    depthwise = LayerWeights(context.array("depthwise_kernel"))
    pointwise = LayerWeights(context.array("pointwise_kernel"), context.array("bias"))
    _check_finite(depthwise, problems)
    _check_finite(pointwise, problems)
    if window is None:
        return
    middle = context.derived_name("depthwise")
    kernel = depthwise.kernel
    shape = (*context.shape[:2], kernel.shape[2] * kernel.shape[3])
    context.emit(
        Op.DEPTHWISE_CONV2D,
        name=middle,
        output=middle,
        shape=shape,
        window=window,
        weights=depthwise,
    )
    _emit_with_activation(
        context,
        problems,
        Op.CONV2D,
        inputs=(middle,),
        window=Window((1, 1)),
        weights=pointwise,
    )


def _dense(context: _Context, problems: LayerProblems) -> None:
    weights = LayerWeights(context.array("kernel"), context.array("bias"))
    _check_finite(weights, problems)
    _emit_with_activation(context, problems, Op.DENSE, weights=weights)


def _batch_norm(context: _Context, problems: LayerProblems) -> None:
    layer, shape = context.layer, context.shape
    axis = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    problems.unless(axis in ([len(shape)], [-1]), "axis", axis, "the last axis")
    ones = np.ones(shape[-1], np.float32)
    gamma, beta = context.array("gamma"), context.array("beta")
    batch_norm = BatchNorm(
        gamma=ones if gamma is None else gamma,
        beta=0 * ones if beta is None else beta,
        mean=context.array("moving_mean"),
        variance=context.array("moving_variance"),
        epsilon=float(layer.epsilon),
    )
    weights = LayerWeights(batch_norm=batch_norm)
    _check_finite(weights, problems)
    context.emit(Op.BATCH_NORM, weights=weights, batch_norm=context.name, window=Window((1, 1)))


def _relu(context: _Context, problems: LayerProblems) -> None:
    activation = _relu_settings(context.layer, problems)
    context.emit(Op.RELU, relu=True, relu_layer=context.name, relu_max=activation.relu_max)


def _activation_layer(context: _Context, problems: LayerProblems) -> None:
    activation = _activation(context.layer.activation, problems)
    if activation.softmax or activation.function:
        _emit_activation(context, activation)
    elif activation.relu:
        context.emit(Op.RELU, relu=True, relu_layer=context.name, relu_max=activation.relu_max)
    else:
        context.result = context.inputs[0]


def _softmax(context: _Context, problems: LayerProblems) -> None:
    axis = context.layer.axis
    problems.unless(axis in (-1, len(context.shape)), "axis", axis, "-1")
    context.emit(Op.SOFTMAX)


def _add(context: _Context, problems: LayerProblems) -> None:
    shapes = [context.input_shape(i) for i in range(len(context.inputs))]
    if any(shape != shapes[0] for shape in shapes):
        problems.add(f"input shapes {shapes} differ; adding with broadcast is not supported")
        return
    # The kernel adds two tensors: more become a chain, and one is its own sum.
    total = context.result = context.inputs[0]
    for i, tensor in enumerate(context.inputs[1:], start=1):
        last = i == len(context.inputs) - 1
        name = context.name if last else context.derived_name(str(i))
        context.emit(Op.ADD, name=name, inputs=(total, tensor), output=name)
        total = context.result = name


def _multiply(context: _Context, problems: LayerProblems) -> None:
    shapes = [context.input_shape(i) for i in range(len(context.inputs))]
    if any(None in shape for shape in shapes):
        return  # of an input that has been refused
    largest = max(shapes, key=lambda shape: (math.prod(shape), len(shape)))
    factors = [shape for shape in shapes if shape != largest]
    if any(_pixel(shape) != (1, largest[-1]) for shape in factors):
        problems.add(
            f"input shapes {shapes}; factors of one shape, and of one for each channel, "
            f"(1, 1, {largest[-1]}) or ({largest[-1]},), are supported"
        )
        return
    # The kernel multiplies two tensors, of which the second may be of one pixel.
    order = sorted(range(len(shapes)), key=lambda i: shapes[i] != largest)
    product = context.result = context.inputs[order[0]]
    for i in order[1:]:
        last = i == order[-1]
        name = context.name if last else context.derived_name(str(i))
        context.emit(
            Op.MULTIPLY,
            name=name,
            inputs=(product, context.inputs[i]),
            output=name,
            shape=context.shape if last else largest,
        )
        product = context.result = name


def _pixel(shape: tuple[int, ...]) -> tuple[int, int]:
    """(pixels, channels)."""
    return math.prod(shape[:-1]), shape[-1]


def _concatenate(context: _Context, problems: LayerProblems) -> None:
    axis = context.layer.axis
    problems.unless(
        axis in (-1, len(context.shape)), "axis", axis, f"-1 or {len(context.shape)} (channels)"
    )
    if len(context.inputs) == 1:
        context.result = context.inputs[0]
    else:
        context.emit(Op.CONCATENATE)


def _pool(op: Op) -> Callable[[_Context, LayerProblems], None]:
    def handle(context: _Context, problems: LayerProblems) -> None:
        layer = context.layer
        window = _window(context, problems, layer.pool_size, layer.strides, layer.padding)
        context.emit(op, window=window)

    return handle


def _global_pool(op: Op) -> Callable[[_Context, LayerProblems], None]:
    def handle(context: _Context, problems: LayerProblems) -> None:
        size = context.input_shape()[:2]
        window = _window(context, problems, size, size, "valid")
        context.emit(op, window=window)

    return handle


def _reshape(context: _Context, problems: LayerProblems) -> None:
    data_format = getattr(context.layer, "data_format", "channels_last")
    problems.unless(data_format == "channels_last", "data_format", data_format, "channels_last")
    context.emit(Op.RESHAPE)


def _zero_padding(context: _Context, problems: LayerProblems) -> None:
    layer = context.layer
    problems.unless(
        layer.data_format == "channels_last", "data_format", layer.data_format, "channels_last"
    )
    (top, bottom), (left, right) = layer.padding
    context.emit(Op.PAD, padding=(top, bottom, left, right))


_HANDLERS: dict[str, Callable[[_Context, LayerProblems], None]] = {
    "Conv2D": _conv2d,
    "DepthwiseConv2D": _depthwise_conv2d,
    "SeparableConv2D": _separable_conv2d,
    "Dense": _dense,
    "ReLU": _relu,
    "Activation": _activation_layer,
    "Softmax": _softmax,
    "Add": _add,
    "Multiply": _multiply,
    "Concatenate": _concatenate,
    "AveragePooling2D": _pool(Op.AVERAGE_POOL),
    "MaxPooling2D": _pool(Op.MAX_POOL),
    "GlobalAveragePooling2D": _global_pool(Op.AVERAGE_POOL),
    "GlobalMaxPooling2D": _global_pool(Op.MAX_POOL),
    "Flatten": _reshape,
    "Reshape": _reshape,
    "ZeroPadding2D": _zero_padding,
    **dict.fromkeys(_BATCH_NORM_LAYERS, _batch_norm),
}

#: Classes of tf_keras.layers that are read; those that do nothing at inference among them.
READABLE_LAYERS = frozenset(_HANDLERS) | IDENTITY_LAYERS


# -- fusion -----------------------------------------------------------------------------------

#: Ops whose kernel can apply a ReLU: saturating at a zero point of 0 does it.
_RELU_HOSTS = WEIGHTED_OPS | {
    Op.BATCH_NORM,
    Op.ADD,
    Op.MULTIPLY,
    Op.CONCATENATE,
    Op.AVERAGE_POOL,
}
_WINDOWED = (Op.CONV2D, Op.DEPTHWISE_CONV2D)


def _fuse(calls: list[_Call], output: str) -> list[_Call]:
    """Fuses batch norms and ReLUs into the call before them, zero padding into the window after."""
    consumers: dict[str, list[_Call]] = {}
    for call in calls:
        for tensor in call.inputs:
            consumers.setdefault(tensor, []).append(call)

    def only_consumer(call: _Call, op: Op) -> _Call | None:
        """The one reader of the call's output if it is an `op`; the network's end reads too."""
        readers = consumers.get(call.output, [])
        open_end = call.output != output and not call.closed
        if open_end and len(readers) == 1 and readers[0].op is op:
            return readers[0]
        return None

    gone: set[int] = set()
    for call in calls:
        if id(call) in gone:
            continue
        if call.op in WEIGHTED_OPS and not call.relu:
            follower = only_consumer(call, Op.BATCH_NORM)
            if follower is not None:
                call.weights = replace(call.weights, batch_norm=follower.weights.batch_norm)
                call.batch_norm, call.output = follower.name, follower.output
                call.closed = follower.closed
                gone.add(id(follower))
        if call.op in _RELU_HOSTS and not call.relu:
            follower = only_consumer(call, Op.RELU)
            if follower is not None:
                call.relu, call.relu_layer = True, follower.relu_layer
                call.relu_max, call.output = follower.relu_max, follower.output
                gone.add(id(follower))
    # Backwards, so that a padding before a padding folds too.
    for call in reversed(calls):
        readers = consumers.get(call.output, [])
        if call.op is Op.PAD and call.output != output and all(map(_takes(call), readers)):
            for reader in readers:
                sums = zip(reader.window.padding, call.padding, strict=True)
                reader.window = replace(reader.window, padding=tuple(a + b for a, b in sums))
                reader.inputs = call.inputs
            consumers[call.inputs[0]] = [
                c for c in consumers[call.inputs[0]] if c is not call
            ] + readers
            gone.add(id(call))
    return [call for call in calls if id(call) not in gone]


def _takes(pad: _Call) -> Callable[[_Call], bool]:
    """Whether a call can fold `pad` into its window: each window must still see the image."""

    def check(reader: _Call) -> bool:
        if reader.op not in _WINDOWED:
            return False
        rows, columns = reader.window.kernel
        top, bottom, left, right = (
            a + b for a, b in zip(reader.window.padding, pad.padding, strict=True)
        )
        return max(top, bottom) < rows and max(left, right) < columns

    return check


def _in_order(calls: list[_Call], output: str) -> list[_Call]:
    """The calls that `output` needs, in an order which only their wiring decides.

    As in tf_keras, the longer a call's way to the output, the sooner it runs. But tf_keras counts
    layers that leave no trace in the graph, which a fake-quant model no longer has; its graph must
    come out in the same order.
    """
    producers = {call.output: call for call in calls}
    inputs_first: dict[str, _Call] = {}  # depth-first from the output
    stack = [(output, False)]
    while stack:
        tensor, inputs_done = stack.pop()
        if tensor in inputs_first or tensor not in producers:
            continue
        if inputs_done:
            inputs_first[tensor] = producers[tensor]
        else:
            stack.append((tensor, True))
            stack += [(name, False) for name in reversed(producers[tensor].inputs)]
    way = dict.fromkeys(inputs_first, 0)
    for call in reversed(inputs_first.values()):
        for name in call.inputs:
            if name in way:
                way[name] = max(way[name], way[call.output] + 1)
    return sorted(inputs_first.values(), key=lambda call: -way[call.output])


def _graph(reader: _Reader, calls: Iterable[_Call]) -> Graph:
    nodes: list[Node] = []
    signed = {reader.input: True}
    for call in calls:
        nodes.append(
            Node(
                name=call.name,
                op=call.op,
                inputs=call.inputs,
                output=call.output,
                window=call.window,
                padding=call.padding,
                batch_norm=call.batch_norm,
                relu=call.relu,
                relu_layer=call.relu_layer,
                relu_max=call.relu_max,
                use_bias=call.weights is not None and call.weights.bias is not None,
                function=call.function,
            )
        )
        signed[call.output] = _signed(call, [signed[i] for i in call.inputs])
    tensors = {name: TensorSpec(name, reader.shapes[name], s) for name, s in signed.items()}
    return Graph(reader.input, reader.output, tuple(nodes), tensors)


def _signed(call: _Call, inputs: list[bool]) -> bool:
    """Whether the output may hold negative values."""
    if call.relu or call.op in (Op.LOOKUP, Op.SOFTMAX):
        return False
    if call.op in WEIGHTED_OPS or call.op is Op.BATCH_NORM:
        return True
    return any(inputs)
