"""Networks as the papers' comparisons have them: to be trained and measured, not deployed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tf_keras

from tfmix.errors import TfmixError
from tfmix.fakequant.apply import apply, graph_of, quantizers_of, require_quantized
from tfmix.fakequant.calibrate import set_ranges
from tfmix.fakequant.quantizers import (
    FLOAT_BITS,
    SIMULATED_BITS,
    SIMULATED_WEIGHT_QUANTIZERS,
)
from tfmix.frontend.keras import read
from tfmix.frontend.loading import as_tf_keras


def simulate(
    model: Any,
    weight_bits: int | Mapping[str, int],
    *,
    weight_quantizer: str = "kmeans",
    weights: str = "per_channel",
    calibration_data: Any = None,
    seed: int = 0,
) -> tf_keras.Model:
    """A fake-quant model whose weights have any of 2 to 8 bits, for simulation only.

    Args:
      model: as quantize_model takes it.
      weight_bits: of all weight tensors, or {layer: bits} for each.
      weight_quantizer: "kmeans", a codebook per tensor (Han et al. 2016, HAQ), or "uniform", over
        the least and the greatest weight.
      weights: "per_channel" or "per_layer", for "uniform".
      calibration_data: where given, activations have 8 bits; else they stay in float.
      seed: as in calibrate.

    It is compiled and fine-tuned like any other; convert, memory_report and searches refuse it.
    """
    for what, value, allowed in (
        ("weight_quantizer", weight_quantizer, tuple(SIMULATED_WEIGHT_QUANTIZERS)),
        ("weights", weights, ("per_channel", "per_layer")),
    ):
        if value not in allowed:
            raise TfmixError(f"{what} {value!r} is not one of {allowed}")
    network = read(as_tf_keras(model))
    qmodel = apply(network, per_channel=weights == "per_channel", weight_quantizer=weight_quantizer)
    if isinstance(weight_bits, int):
        weight_bits = {node.name: weight_bits for node in network.graph.weighted_nodes}
    set_weight_bits(qmodel, weight_bits)
    if calibration_data is not None:
        set_ranges(qmodel, calibration_data, seed)
    else:
        for bound in quantizers_of(qmodel).activations.values():
            bound.variables["bits"].assign(FLOAT_BITS)
    return qmodel


def set_weight_bits(model: tf_keras.Model, weight_bits: Mapping[str, int]) -> None:
    """Sets the weight bits, 2 to 8, of a model made by `simulate`. Nothing is retraced."""
    require_quantized(model)
    quantizers = quantizers_of(model).weights
    if not simulated_weights(model):
        raise TfmixError(f"{model.name!r} was not made by simulate; use set_policy")
    unknown = [name for name in weight_bits if name not in quantizers]
    if unknown:
        raise TfmixError(f"no weights {unknown} in the network; it has {list(quantizers)}")
    for name, bits in weight_bits.items():
        if isinstance(bits, bool) or bits not in SIMULATED_BITS:
            raise TfmixError(f"weights {name!r}: bit-width {bits!r} is not one of {SIMULATED_BITS}")
    for name, bits in weight_bits.items():
        quantizers[name].variables["bits"].assign(int(bits))


def simulated_weights(model: tf_keras.Model) -> list[str]:
    """Names of the nodes of a fake-quant model whose weights can only be simulated."""
    kinds = tuple(SIMULATED_WEIGHT_QUANTIZERS.values())
    quantizers = quantizers_of(model).weights
    return [name for name, bound in quantizers.items() if isinstance(bound.quantizer, kinds)]


def require_deployable(model: tf_keras.Model) -> None:
    """TfmixError where a fake-quant model is for simulation only."""
    names = simulated_weights(model)
    if names:
        kind = type(quantizers_of(model).weights[names[0]].quantizer).__name__
        raise TfmixError(
            f"{graph_of(model).output}: this model is for simulation only: {names[0]} and "
            f"{len(names) - 1} more have weights of {kind}, which no kernel runs; make one that "
            "can be deployed with tfmix.quantize_model"
        )
