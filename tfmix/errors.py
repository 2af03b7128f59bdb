"""Errors a user can meet. Each message names the layer, the value found and the values allowed."""

from __future__ import annotations

from collections.abc import Sequence


class TfmixError(ValueError):
    """Base class of every error that tfmix raises for bad input."""


class UnsupportedModelError(TfmixError):
    """The model holds layers or settings that cannot be deployed; `problems` lists them all."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"the model cannot be quantized, {count} problem(s):\n{lines}")


class BudgetError(TfmixError):
    """No policy meets the budget. `tensor` does not fit; `smallest` bytes would do."""

    def __init__(self, message: str, *, tensor: str, smallest: int):
        self.tensor = tensor
        self.smallest = smallest
        super().__init__(message)


class CalibrationError(TfmixError):
    """Activation ranges are missing, or cannot be had from the data given."""


class ConversionError(TfmixError):
    """A layer cannot be expressed in the integer arithmetic of the kernels."""


class FormatError(TfmixError):
    """A file is truncated, foreign, damaged, or of a newer version than this library reads."""


class ConversionWarning(UserWarning):
    """The integers of a layer differ from fake-quant by more than rounding; the message says which
    layer, by how much, and why."""
