"""Mixed-precision (2, 4, 8 bit) quantization of Keras CNNs for microcontrollers.

qmodel = tfmix.quantize_model(model, tfmix.Budget(flash="2MB", ram="512kB"),
                              calibration_data=x)
qmodel.compile(...); qmodel.fit(...)
tfmix.export(qmodel, "model.tflite")
"""

from tfmix.api import (
    check,
    convert,
    export,
    export_c,
    export_resolver,
    load,
    memory_report,
    quantize_model,
    search_policy,
)
from tfmix.budget import Budget
from tfmix.errors import (
    BudgetError,
    CalibrationError,
    ConversionError,
    ConversionWarning,
    FormatError,
    TfmixError,
    UnsupportedModelError,
)
from tfmix.export.delegate import delegate_path, interpreter
from tfmix.fakequant import callbacks
from tfmix.fakequant.apply import get_policy, set_policy
from tfmix.fakequant.batch_norm import reestimate_batch_norm
from tfmix.fakequant.bias_correction import correct_bias
from tfmix.fakequant.data import proxy
from tfmix.fakequant.distill import Distiller
from tfmix.fakequant.equalize import equalize
from tfmix.fakequant.finetune import Finetuned, finetune
from tfmix.fakequant.post_training import calibrate
from tfmix.fakequant.rounding import learn_rounding
from tfmix.integer.compare import compare
from tfmix.integer.inference import IntegerModel
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.session import SearchResult
from tfmix.report.plots import plot_policy
from tfmix.search.callback import PolicySearch
from tfmix.version import __version__

__all__ = [
    "Budget",
    "BudgetError",
    "CalibrationError",
    "ConversionError",
    "ConversionWarning",
    "Distiller",
    "Finetuned",
    "FormatError",
    "IntegerModel",
    "PolicySearch",
    "QuantizationPolicy",
    "SearchResult",
    "TfmixError",
    "UnsupportedModelError",
    "__version__",
    "calibrate",
    "callbacks",
    "check",
    "compare",
    "convert",
    "correct_bias",
    "delegate_path",
    "equalize",
    "export",
    "export_c",
    "export_resolver",
    "finetune",
    "get_policy",
    "interpreter",
    "learn_rounding",
    "load",
    "memory_report",
    "plot_policy",
    "proxy",
    "quantize_model",
    "reestimate_batch_norm",
    "search_policy",
    "set_policy",
]
