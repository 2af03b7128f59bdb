"""Builds the fake-quant model, and finds its quantizers again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf
import tf_keras

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.fakequant._tfmot import (
    QuantizeWrapper,
    QuantizeWrapperV2,
    quantize_annotate_layer,
    quantize_apply,
)
from tfmix.fakequant.quantizers import (
    ACTIVATION_QUANTIZERS,
    FLOAT_BITS,
    SIMULATED_WEIGHT_QUANTIZERS,
    WEIGHT_QUANTIZERS,
)
from tfmix.fakequant.rebuild import build_float, float32_policy, free_name
from tfmix.fakequant.scheme import (
    PREFIX,
    MixedPrecisionConfig,
    MixedPrecisionScheme,
    QuantizedLayer,
)
from tfmix.frontend.keras import KerasNetwork, Unwrapped, read
from tfmix.ir.graph import Graph, Op, as_graph
from tfmix.policy.policy import QuantizationPolicy


@dataclass(frozen=True)
class BoundQuantizer:
    """A quantizer with the variables that one layer holds for it, and for weights the kernel."""

    quantizer: Any
    variables: Mapping[str, tf.Variable]
    kernel: tf.Variable | None = None


@dataclass(frozen=True)
class Quantizers:
    """All quantizers of a fake-quant model: weights by node name, activations by tensor name."""

    weights: Mapping[str, BoundQuantizer]
    activations: Mapping[str, BoundQuantizer]


# -- building ---------------------------------------------------------------------------------


def apply(
    network: KerasNetwork,
    *,
    per_channel: bool,
    weight_quantizer: str = "lsq",
    activation_quantizer: str = "lsq",
) -> tf_keras.Model:
    """The fake-quant model of `network`, all bits at 8, activation ranges not yet known.

    The quantizers are names in WEIGHT_QUANTIZERS (or SIMULATED_WEIGHT_QUANTIZERS) and
    ACTIVATION_QUANTIZERS.
    """
    model = build_float(network, input_carrier=_input_carrier(network.graph))
    configs = _plan(network.graph, per_channel, weight_quantizer, activation_quantizer)

    def annotate(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        return quantize_annotate_layer(layer) if layer.name in configs else layer

    with float32_policy():
        annotated = tf_keras.models.clone_model(model, clone_function=annotate)
        wrapped = quantize_apply(annotated, MixedPrecisionScheme(configs), PREFIX)
    qmodel = _as_loaded(wrapped, _training_dtype())
    init_ranges(qmodel)
    return qmodel


def _input_carrier(graph: Graph) -> str:
    """Name of the layer behind the input that does nothing but carry the input's quantizer."""
    return free_name(graph, f"{graph.input}_quantizer")


def _plan(
    graph: Graph, per_channel: bool, weight_quantizer: str, activation_quantizer: str
) -> dict[str, MixedPrecisionConfig]:
    """Layer name -> config, for each layer of the normal form that is quantized."""
    weights = {**WEIGHT_QUANTIZERS, **SIMULATED_WEIGHT_QUANTIZERS}[weight_quantizer]
    activations = ACTIVATION_QUANTIZERS[activation_quantizer]
    parts: dict[str, dict[str, Any]] = {
        # The input's range is a fact of the data, not something to learn.
        _input_carrier(graph): {"output_quantizer": activations(signed=True, trainable=False)}
    }
    for node in graph.nodes:
        if node in graph.weighted_nodes:
            depthwise = node.op is Op.DEPTHWISE_CONV2D
            parts.setdefault(node.name, {}).update(
                kernel="depthwise_kernel" if depthwise else "kernel",
                weight_quantizer=weights(per_channel, depthwise),
            )
        if node.output in graph.quantized_tensors:
            # A layer of the normal form has the name of the tensor it gives.
            if node.op is Op.LOOKUP:
                quantizer = activations(signed=False, maximum=1.0, fixed=True)
            else:
                quantizer = activations(
                    signed=graph.tensors[node.output].signed,
                    maximum=node.relu_max if node.relu else None,
                )
            parts.setdefault(node.output, {})["output_quantizer"] = quantizer
    return {name: MixedPrecisionConfig(**settings) for name, settings in parts.items()}


def _training_dtype() -> str:
    """The policy that layers are to train in: the one switched on, if its weights are float32."""
    policy = tf_keras.mixed_precision.global_policy()
    return policy.name if policy.variable_dtype == "float32" else "float32"


def _as_loaded(model: tf_keras.Model, dtype: str) -> tf_keras.Model:
    """The same model as if loaded from a file: a `QuantizedLayer` for each of tfmot's wrappers.

    A tfmot wrapper lists its variables in one order around a layer that was built before, and in
    another around one built with it, as when a file is loaded; weights are stored by order. So the
    model is made anew from its configuration here: then it and all that is loaded agree.

    dtype: policy of its layers; those that give the outputs, and the input, stay in float32.
    """
    config = model.get_config()
    outputs = {name for name, *_ in config["output_layers"]}
    for layer in config["layers"]:
        inner = layer
        layer.pop("build_config", None)
        if layer["class_name"] == QuantizeWrapperV2.__name__:
            inner = layer["config"]["layer"]
            inner.pop("build_config", None)
        if layer["name"] not in outputs and layer["class_name"] != "InputLayer":
            inner["config"]["dtype"] = dtype
    ours = {QuantizeWrapperV2.__name__: QuantizedLayer}
    fresh = tf_keras.Model.from_config(config, custom_objects=ours)
    for old, new in zip(model.layers, fresh.layers, strict=True):
        pairs = [(old.weights, new.weights)]
        if isinstance(old, QuantizeWrapper):
            # Quantizers hold their initial values still; the kernel is the wrapper's.
            pairs = [(old.layer.weights, new.layer.weights)]
            pairs += [
                ([a[0]], [b[0]]) for a, b in zip(old._weight_vars, new._weight_vars, strict=True)
            ]
        for sources, targets in pairs:
            for source, target in zip(sources, targets, strict=True):
                target.assign(source)
    return fresh


# -- finding ----------------------------------------------------------------------------------


def unwrap(layer: tf_keras.layers.Layer) -> Unwrapped:
    """Looks behind tfmot's wrappers, for `frontend.keras.read`."""
    if isinstance(layer, QuantizeWrapper):
        kernel = getattr(layer.quantize_config, "kernel", None)
        # While the wrapper runs, the layer's own attribute holds the fake-quantized tensor.
        variables = {kernel: layer._weight_vars[0][0]} if kernel else {}
        return Unwrapped(layer.layer, variables, closed=bool(layer._output_quantizers))
    return Unwrapped(layer)


def is_quantized(model: Any) -> bool:
    """Whether `model` is a fake-quant model of ours."""
    return isinstance(model, tf_keras.Model) and any(
        isinstance(getattr(layer, "quantize_config", None), MixedPrecisionConfig)
        for layer in model.layers
    )


def require_quantized(model: Any) -> None:
    if not is_quantized(model):
        raise TfmixError(
            f"{getattr(model, 'name', model)!r} is not a fake-quant model; "
            "make one with tfmix.quantize_model(model, budget)"
        )


_graphs: weakref.WeakKeyDictionary[tf_keras.Model, Graph] = weakref.WeakKeyDictionary()


@as_graph.register
def graph_of(model: tf_keras.Model) -> Graph:
    """The graph of a float or fake-quant model; UnsupportedModelError where it cannot be read."""
    if not is_quantized(model):
        return read(model).graph  # it may still change
    if model not in _graphs:
        _graphs[model] = read(model, unwrap).graph
    return _graphs[model]


def quantizers_of(model: tf_keras.Model) -> Quantizers:
    """Every quantizer of a fake-quant model, in execution order."""
    graph = graph_of(model)
    weights: dict[str, BoundQuantizer] = {}
    activations: dict[str, BoundQuantizer] = {}
    for layer in model.layers:
        if isinstance(layer, QuantizeWrapper):
            name = layer.layer.name
            for kernel, quantizer, variables in layer._weight_vars:
                weights[name] = BoundQuantizer(quantizer, variables, kernel)
            if layer._output_quantizers:
                tensor = graph.input if name == _input_carrier(graph) else name
                activations[tensor] = BoundQuantizer(
                    layer._output_quantizers[0], layer._output_quantizer_vars
                )
    return Quantizers(
        {node.name: weights[node.name] for node in graph.weighted_nodes},
        {tensor: activations[tensor] for tensor in graph.quantized_tensors},
    )


# -- weight ranges ----------------------------------------------------------------------------


def init_ranges(model: tf_keras.Model) -> None:
    """Fits the grids of all weights to the kernels as they are now, at every bit-width.

    To be called when kernels were changed by anything but training. Learned steps begin anew.
    """
    for bound in quantizers_of(model).weights.values():
        bound.quantizer.init_ranges(bound.variables, bound.kernel)


# -- policy -----------------------------------------------------------------------------------


def get_policy(model: tf_keras.Model) -> QuantizationPolicy:
    """The bits now set in a fake-quant model."""
    require_quantized(model)
    quantizers = quantizers_of(model)
    return QuantizationPolicy(
        {name: int(q.variables["bits"].numpy()) for name, q in quantizers.weights.items()},
        {name: int(q.variables["bits"].numpy()) for name, q in quantizers.activations.items()},
    )


def set_policy(model: tf_keras.Model, policy: QuantizationPolicy) -> None:
    """Sets the bits of a fake-quant model. Nothing is retraced: bits are variables.

    Raises TfmixError, and changes nothing, where the policy is not one of this network.
    """
    require_quantized(model)
    if not isinstance(policy, QuantizationPolicy):
        raise TfmixError(f"policy {policy!r} is not a tfmix.QuantizationPolicy")
    policy.validate(graph_of(model))
    quantizers = quantizers_of(model)
    for name, bits in policy.weight_bits.items():
        quantizers.weights[name].variables["bits"].assign(bits)
    for name, bits in policy.activation_bits.items():
        quantizers.activations[name].variables["bits"].assign(bits)


# -- budget -----------------------------------------------------------------------------------


def set_budget(model: tf_keras.Model, budget: Budget | None) -> None:
    """Remembers what a fake-quant model is to fit; files of the model keep it."""
    config = layer_of_tensor(model, graph_of(model).input).quantize_config
    config.budget = None if budget is None else asdict(budget)


def budget_of(model: tf_keras.Model) -> Budget | None:
    """What `set_budget` remembered."""
    fields = layer_of_tensor(model, graph_of(model).input).quantize_config.budget
    return None if fields is None else Budget(**fields)


@contextmanager
def float_activations(model: tf_keras.Model) -> Iterator[None]:
    """Inside, no activation of a fake-quant model is quantized, not even the input; weights are.

    Nothing is retraced. Bits set in between are lost: those of before come back.
    """
    bits = [bound.variables["bits"] for bound in quantizers_of(model).activations.values()]
    before = [int(variable.numpy()) for variable in bits]
    try:
        for variable in bits:
            variable.assign(FLOAT_BITS)
        yield
    finally:
        for variable, value in zip(bits, before, strict=True):
            variable.assign(value)


def layer_of_tensor(model: tf_keras.Model, tensor: str) -> tf_keras.layers.Layer:
    """The layer of a fake-quant model that gives an activation tensor of its graph."""
    graph = graph_of(model)
    if tensor == graph.input:
        tensor = _input_carrier(graph)
    for layer in model.layers:
        if layer.name in (tensor, PREFIX + tensor):
            return layer
    raise TfmixError(f"{tensor!r} is not a tensor of {model.name!r}")
