"""Fake-quant quantizers whose bit-width is a variable: 2, 4 or 8, changed without a retrace.

Each is a tfmot `Quantizer`: `build` makes its variables, `__call__` quantizes and dequantizes in
float. Rounding is floor(x + 0.5), as everywhere in tfmix (docs/arithmetic.md). How to add one:
docs/training.md.
"""

from tfmix.fakequant.quantizers.base import RangeQuantizer, WeightQuantizer
from tfmix.fakequant.quantizers.grid import FLOAT_BITS, affine
from tfmix.fakequant.quantizers.lsq import LsqActivationQuantizer, LsqWeightQuantizer
from tfmix.fakequant.quantizers.minmax import MinMaxWeightQuantizer
from tfmix.fakequant.quantizers.pact import ActivationQuantizer
from tfmix.fakequant.quantizers.ranges import least_error_grid, mse_ranges
from tfmix.fakequant.quantizers.simulated import (
    SIMULATED_BITS,
    KMeansWeightQuantizer,
    UniformWeightQuantizer,
)

#: Name -> class, as `quantize_model(weight_quantizer=...)` takes it.
WEIGHT_QUANTIZERS: dict[str, type[WeightQuantizer]] = {
    "lsq": LsqWeightQuantizer,
    "minmax": MinMaxWeightQuantizer,
}
#: Name -> class, as `simulate(weight_quantizer=...)` takes it.
SIMULATED_WEIGHT_QUANTIZERS: dict[str, type[WeightQuantizer]] = {
    "kmeans": KMeansWeightQuantizer,
    "uniform": UniformWeightQuantizer,
}
#: Name -> class, as `quantize_model(activation_quantizer=...)` takes it.
ACTIVATION_QUANTIZERS: dict[str, type[RangeQuantizer]] = {
    "lsq": LsqActivationQuantizer,
    "pact": ActivationQuantizer,
}

__all__ = [
    "ACTIVATION_QUANTIZERS",
    "FLOAT_BITS",
    "SIMULATED_BITS",
    "SIMULATED_WEIGHT_QUANTIZERS",
    "WEIGHT_QUANTIZERS",
    "ActivationQuantizer",
    "LsqActivationQuantizer",
    "LsqWeightQuantizer",
    "MinMaxWeightQuantizer",
    "RangeQuantizer",
    "WeightQuantizer",
    "affine",
    "least_error_grid",
    "mse_ranges",
]
