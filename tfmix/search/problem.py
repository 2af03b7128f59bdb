"""The problem that a fake-quant model and a budget pose: where every way of searching begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import tf_keras

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.export.memory import memory_model
from tfmix.fakequant.apply import (
    budget_of,
    get_policy,
    graph_of,
    quantizers_of,
    require_quantized,
)
from tfmix.fakequant.simulation import require_deployable
from tfmix.policy.cost.memory import MemoryModel
from tfmix.policy.cost.streaming import NO_CHAINS, ChainPlan, planner_of
from tfmix.policy.search.base import Pinned, SearchProblem

#: More bytes of RAM than any network takes.
_UNLIMITED = 2**40


def flavour_of(model: tf_keras.Model) -> Literal["per_channel", "per_layer"]:
    """How a fake-quant model's weights are scaled. TfmixError where it can only be simulated."""
    require_deployable(model)
    quantizers = quantizers_of(model).weights.values()
    per_channel = all(bound.quantizer.per_channel for bound in quantizers)
    return "per_channel" if per_channel else "per_layer"


def memory_of(model: tf_keras.Model, budget: Budget) -> MemoryModel:
    """What a fake-quant model costs, run as it has to be to fit the RAM of a budget."""
    return memory_model(graph_of(model), flavour_of(model), budget.accounting, budget.streaming_ram)


def chains_of(
    model: tf_keras.Model, budget: Budget | None, *, input_by_rows: bool = False
) -> ChainPlan:
    """The layers of a fake-quant model that run row by row, at the bits now set, to fit a budget.

    budget: None for the one that the model remembers, if any
    input_by_rows: the network's input is never whole; RAM is counted without an interpreter.
      TfmixError where the network does not begin with layers that can do that.
    """
    budget = budget or budget_of(model) or Budget(None, None)
    bits = get_policy(model).activation_bits
    if input_by_rows:
        planner = planner_of(graph_of(model), input_by_rows=True)
        ram = budget.streaming_ram or _UNLIMITED
        return planner.fitting(bits, ram) or planner.smallest(bits)
    if budget.streaming_ram is None:
        return NO_CHAINS
    return memory_of(model, budget).at(bits).plan


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
        memory_of(model, budget),
        budget,
        pinned=Pinned.parse(graph_of(model), pinned),
        **settings,
    )
