"""The one place that imports tensorflow-model-optimization, leaving no trace in the process.

Importing tfmot sets TF_USE_LEGACY_KERAS=1, and where `tf.keras` was not touched before, it stays
bound to Keras 2 for the whole process. A user's Keras 3 code must not notice that tfmix was
imported: so `tf.keras` is resolved first, by the user's own environment, and the variable is put
back.
"""

from __future__ import annotations

import os

import tensorflow as tf

_VARIABLE = "TF_USE_LEGACY_KERAS"
_before = os.environ.get(_VARIABLE)
try:
    _ = tf.keras.layers  # resolves TensorFlow's lazy loader
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.quantization.keras import (
        quantize_registry,
        quantize_scheme,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_layout_transform import (  # noqa: E501
        QuantizeLayoutTransform,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
        QuantizeWrapper,
        QuantizeWrapperV2,
    )
finally:
    if _before is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = _before

QuantizeConfig = tfmot.quantization.keras.QuantizeConfig
Quantizer = tfmot.quantization.keras.quantizers.Quantizer
QuantizeRegistry = quantize_registry.QuantizeRegistry
QuantizeScheme = quantize_scheme.QuantizeScheme
quantize_annotate_layer = tfmot.quantization.keras.quantize_annotate_layer
quantize_apply = tfmot.quantization.keras.quantize_apply

__all__ = [
    "QuantizeConfig",
    "QuantizeLayoutTransform",
    "QuantizeRegistry",
    "QuantizeScheme",
    "QuantizeWrapper",
    "QuantizeWrapperV2",
    "Quantizer",
    "quantize_annotate_layer",
    "quantize_apply",
]
