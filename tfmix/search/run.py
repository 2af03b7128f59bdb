"""Runs a search on a fake-quant model: the method, the data it measures on, the engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, get_type_hints

import tf_keras

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import quantizers_of
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search import memory as rules
from tfmix.policy.search.base import Found, get_searcher
from tfmix.policy.search.session import SearchResult, SearchSession, run
from tfmix.search.problem import pose

Engine = Literal["serial", "ray"]
ENGINES = ("serial", "ray")

#: What method "auto" means with data and without.
AUTO_WITH_DATA = "ilp"
AUTO_WITHOUT_DATA = "memory"

#: Options of the measurements, which go to `ModelEvaluator`; all others go to the method.
_EVALUATOR_OPTIONS = ("batch_size", "learning_rate", "loss_samples")


def search_bits(
    model: tf_keras.Model,
    budget: Budget | None,
    method: str,
    *,
    data: Any = None,
    train_data: Any = None,
    pinned: Mapping[str, Mapping[str, int]] | None = None,
    journal: str | os.PathLike[str] | None = None,
    engine: Engine = "serial",
    seed: int = 0,
    verbose: int = 1,
    options: Mapping[str, Any] | None = None,
) -> SearchResult:
    """The policy that `method` finds for a fake-quant model; the model stays as it is.

    data: what trials are measured on, None for methods that measure nothing.
    Other arguments, and errors: as `tfmix.search_policy`.
    """
    if not isinstance(method, str):
        raise TfmixError(f"search {method!r} is not a str")
    if engine not in ENGINES:
        raise TfmixError(f"engine {engine!r} is not one of {ENGINES}")
    options = dict(options or {})
    settings = {name: options.pop(name) for name in _EVALUATOR_OPTIONS if name in options}
    problem = pose(model, budget, pinned, seed=seed)
    if method == "auto":
        method = (
            AUTO_WITHOUT_DATA if data is None or problem.fits(problem.start()) else AUTO_WITH_DATA
        )
    if data is None or not measures(method):
        return SearchSession(method, problem, journal=journal, options=options).result
    _require_ranges(model)
    rules.search(problem)  # an impossible budget is said before anything is measured
    evaluator = ModelEvaluator(model, data, train_data=train_data, seed=seed, **settings)
    problem = replace(
        problem,
        measures=evaluator.measures,
        trains=evaluator.trains,
        float_accuracy=evaluator.float_accuracy(),
        estimate=evaluator.estimate,
    )
    session = SearchSession(
        method, problem, journal=journal, identity=evaluator.identity(), options=options
    )
    silent: Callable[[SearchSession], None] = lambda session: None  # noqa: E731
    with _engine(engine, evaluator) as evaluate_many:
        return run(session, evaluate_many, progress=None if verbose else silent)


def measures(method: str) -> bool:
    """Whether a search method may ask for trials: all may but those that are declared to return a
    policy. TfmixError for names there are not."""
    return get_type_hints(get_searcher(method)).get("return") not in (QuantizationPolicy, Found)


def _require_ranges(model: tf_keras.Model) -> None:
    """CalibrationError naming the first activation whose range is not known."""
    for name, bound in quantizers_of(model).activations.items():
        bound.quantizer.quant_params(bound.variables, name)


def _engine(engine: Engine, evaluator: ModelEvaluator) -> Any:
    """A context manager that gives what measures trials."""
    if engine == "serial":
        return contextlib.nullcontext(evaluator)
    from tfmix.search.ray_engine import RayEngine  # Ray is optional

    return RayEngine(evaluator)
