"""The problem that a fake-quant model and a budget pose: where every way of searching begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import tf_keras

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.export.memory import memory_model
from tfmix.fakequant.apply import graph_of, quantizers_of, require_quantized
from tfmix.fakequant.simulation import require_deployable
from tfmix.policy.cost.memory import MemoryModel
from tfmix.policy.search.base import Pinned, SearchProblem


def flavour_of(model: tf_keras.Model) -> Literal["per_channel", "per_layer"]:
    """How a fake-quant model's weights are scaled. TfmixError where it can only be simulated."""
    require_deployable(model)
    quantizers = quantizers_of(model).weights.values()
    per_channel = all(bound.quantizer.per_channel for bound in quantizers)
    return "per_channel" if per_channel else "per_layer"


def memory_of(model: tf_keras.Model, accounting: Literal["deployed", "paper"]) -> MemoryModel:
    """What a fake-quant model costs."""
    return memory_model(graph_of(model), flavour_of(model), accounting)


def pose(
    model: tf_keras.Model,
    budget: Budget | None,
    pinned: Mapping[str, Mapping[str, int]] | None,
    **settings: Any,
) -> SearchProblem:
    """The problem of fitting a fake-quant model into `budget`; settings: as SearchProblem's."""
    require_quantized(model)
    if budget is not None and not isinstance(budget, Budget):
        raise TfmixError(f"budget {budget!r} is not a Budget (or None)")
    budget = budget or Budget(None, None)
    return SearchProblem(
        memory_of(model, budget.accounting),
        budget,
        pinned=Pinned.parse(graph_of(model), pinned),
        **settings,
    )
