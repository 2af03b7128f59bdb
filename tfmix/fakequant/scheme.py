"""tfmot glue: the QuantizeConfig of a layer, and the scheme that hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import tensorflow as tf
import tf_keras

from tfmix.fakequant._tfmot import (
    QuantizeConfig,
    QuantizeLayoutTransform,
    Quantizer,
    QuantizeRegistry,
    QuantizeScheme,
    QuantizeWrapperV2,
)

#: Name prefix of wrapped layers.
PREFIX = "quant_"


@tf_keras.utils.register_keras_serializable(package="tfmix")
class QuantizedLayer(QuantizeWrapperV2):
    """tfmot's wrapper, made fit for files and for freezing.

    It is registered, so that a model loads with plain `tf_keras.models.load_model`. And it is
    always built by its first call, never from a stored shape: so its variables come in one order,
    by which weights are stored, and under names that begin with its own, by which `.h5` files
    store the optimizer. And where the layer is frozen, so are its kernel and its range.

    Under mixed precision the wrapper computes in float32, the layer inside in its own type: the
    grid of 8-bit weights is finer than float16.
    """

    def __init__(self, layer: Any, quantize_config: QuantizeConfig, **kwargs: Any):
        super().__init__(
            layer, quantize_config, **{**kwargs, "dtype": "float32", "autocast": False}
        )

    def call(self, inputs: Any, training: Any = None) -> Any:
        quantized = [q(w, training, weights=variables) for w, q, variables in self._weight_vars]
        self.quantize_config.set_quantize_weights(self.layer, quantized)
        takes_training = "training" in signature(self.layer.call).parameters
        y = self.layer(inputs, **({"training": training} if takes_training else {}))
        if not self._output_quantizers:
            return y
        return self._output_quantizers[0](y, training, weights=self._output_quantizer_vars)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["layer"].pop("build_config", None)
        return config

    def get_build_config(self) -> None:
        return None

    @property
    def trainable_weights(self) -> list:
        return super().trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list:
        # A frozen layer lists its weights in the same order as one that is not.
        frozen = [] if self.trainable else super().trainable_weights
        return self._dedup_weights(frozen + super().non_trainable_weights)


@tf_keras.utils.register_keras_serializable(package="tfmix")
class MixedPrecisionConfig(QuantizeConfig):
    """What is quantized in one layer: its weight tensor, its output, or both.

    Args:
      kernel: attribute that holds the weight tensor ("kernel", "depthwise_kernel"), or None.
      weight_quantizer: quantizer of that tensor.
      output_quantizer: quantizer of the layer's output, or None.
      budget: of the layer that carries the network's input: the fields of the Budget that the
        network is to fit, or None.
    """

    def __init__(
        self,
        kernel: str | None = None,
        weight_quantizer: Quantizer | None = None,
        output_quantizer: Quantizer | None = None,
        budget: dict[str, Any] | None = None,
    ):
        self.kernel = kernel
        self.weight_quantizer = weight_quantizer
        self.output_quantizer = output_quantizer
        self.budget = budget

    def get_weights_and_quantizers(self, layer: Any) -> list:
        if self.kernel is None:
            return []
        return [(getattr(layer, self.kernel), self.weight_quantizer)]

    def get_activations_and_quantizers(self, layer: Any) -> list:
        return []  # outputs are quantized whole, after the activation

    def set_quantize_weights(self, layer: Any, quantize_weights: list) -> None:
        if quantize_weights:
            setattr(layer, self.kernel, tf.cast(quantize_weights[0], layer.compute_dtype))

    def set_quantize_activations(self, layer: Any, quantize_activations: list) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list:
        return [] if self.output_quantizer is None else [self.output_quantizer]

    def get_config(self) -> dict[str, Any]:
        def serialize(quantizer):
            return quantizer and tf_keras.utils.legacy.serialize_keras_object(quantizer)

        return {
            "kernel": self.kernel,
            "weight_quantizer": serialize(self.weight_quantizer),
            "output_quantizer": serialize(self.output_quantizer),
            "budget": self.budget,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MixedPrecisionConfig:
        def deserialize(quantizer):
            return quantizer and tf_keras.utils.legacy.deserialize_keras_object(quantizer)

        return cls(
            config["kernel"],
            deserialize(config["weight_quantizer"]),
            deserialize(config["output_quantizer"]),
            config.get("budget"),  # files of before it was there
        )


class MixedPrecisionScheme(QuantizeScheme):
    """Gives each annotated layer the config planned for it, and changes no layer."""

    def __init__(self, configs: Mapping[str, MixedPrecisionConfig]):
        self._configs = configs

    def get_layout_transformer(self) -> QuantizeLayoutTransform:
        return _KeepLayout()

    def get_quantize_registry(self) -> QuantizeRegistry:
        return _Planned(self._configs)


class _KeepLayout(QuantizeLayoutTransform):
    def apply(self, model: Any, layer_quantize_map: dict) -> tuple[Any, dict]:
        return model, layer_quantize_map


class _Planned(QuantizeRegistry):
    def __init__(self, configs: Mapping[str, MixedPrecisionConfig]):
        self._configs = configs

    def supports(self, layer: Any) -> bool:
        return layer.name in self._configs

    def get_quantize_config(self, layer: Any) -> MixedPrecisionConfig:
        return self._configs[layer.name]
