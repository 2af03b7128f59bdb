"""Mixed-precision (2, 4, 8 bit) quantization of Keras CNNs for microcontrollers.

qmodel = tfmix.quantize_model(model, tfmix.Budget(flash="2MB", ram="512kB"),
                              calibration_data=x)
qmodel.compile(...); qmodel.fit(...)
tfmix.export(qmodel, "model.tflite")

Each name is imported when it is first used: `import tfmix` costs nothing, and only what needs
TensorFlow imports it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfmix import registration

if TYPE_CHECKING:
    from tfmix import models
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
    from tfmix.export.kernel_sources import kernels_directory
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
    from tfmix.report.write import write_report
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
    "kernels_directory",
    "learn_rounding",
    "load",
    "memory_report",
    "models",
    "plot_policy",
    "proxy",
    "quantize_model",
    "reestimate_batch_norm",
    "search_policy",
    "set_policy",
    "write_report",
]

#: Where each name is defined: what stands above for type checkers, as a value. A test holds the
#: two and `__all__` together.
_DEFINED_IN = {
    "tfmix": ("models",),
    "tfmix.api": (
        *("check", "convert", "export", "export_c", "export_resolver", "load", "memory_report"),
        *("quantize_model", "search_policy"),
    ),
    "tfmix.budget": ("Budget",),
    "tfmix.errors": (
        *("BudgetError", "CalibrationError", "ConversionError", "ConversionWarning"),
        *("FormatError", "TfmixError", "UnsupportedModelError"),
    ),
    "tfmix.export.delegate": ("delegate_path", "interpreter"),
    "tfmix.export.kernel_sources": ("kernels_directory",),
    "tfmix.fakequant": ("callbacks",),
    "tfmix.fakequant.apply": ("get_policy", "set_policy"),
    "tfmix.fakequant.batch_norm": ("reestimate_batch_norm",),
    "tfmix.fakequant.bias_correction": ("correct_bias",),
    "tfmix.fakequant.data": ("proxy",),
    "tfmix.fakequant.distill": ("Distiller",),
    "tfmix.fakequant.equalize": ("equalize",),
    "tfmix.fakequant.finetune": ("Finetuned", "finetune"),
    "tfmix.fakequant.post_training": ("calibrate",),
    "tfmix.fakequant.rounding": ("learn_rounding",),
    "tfmix.integer.compare": ("compare",),
    "tfmix.integer.inference": ("IntegerModel",),
    "tfmix.policy.policy": ("QuantizationPolicy",),
    "tfmix.policy.search.session": ("SearchResult",),
    "tfmix.report.plots": ("plot_policy",),
    "tfmix.report.write": ("write_report",),
    "tfmix.search.callback": ("PolicySearch",),
    "tfmix.version": ("__version__",),
}
_HOME = {name: module for module, names in _DEFINED_IN.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name])
    if _HOME[name] == __name__ or not hasattr(module, name):  # a module of that package
        value = import_module(f"{_HOME[name]}.{name}")
    else:
        value = getattr(module, name)
    registration.register()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A subpackage has the name of a function, `export`: importing it must not take the name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and value is sys.modules.get(f"{__name__}.{name}")):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
registration.register_with_keras()
