"""Says whether a model can be quantized, and whether it fits: all problems at once."""

from __future__ import annotations

import argparse
from typing import Any

from tfmix.budget import Budget
from tfmix.cli.common import Outcome, add_budget, budget_document, budget_of, import_tensorflow

HELP = "what stands in the way of quantizing a model, if anything"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .keras or .h5 file, or a SavedModel")
    add_budget(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    budget = budget_of(arguments)
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.frontend.loading import as_tf_keras

    problems = tfmix.check(arguments.model)
    document: dict[str, Any] = {"model": arguments.model, "problems": problems}
    if problems:
        lines = [f"{arguments.model}: {len(problems)} problem(s)", *(f"  - {p}" for p in problems)]
        return Outcome(document, "\n".join(lines), 1)
    text = f"{arguments.model}: can be quantized"
    if budget is None:
        return Outcome(document, text)
    fit, lines = _fit(as_tf_keras(arguments.model), budget)
    document |= {"budget": budget_document(budget), **fit}
    return Outcome(document, "\n".join([text, *lines]), 0 if fit["fits"] else 1)


def _fit(model: Any, budget: Budget) -> tuple[dict[str, Any], list[str]]:
    """Whether 8 bits, or else any bits, fit; as facts, and as lines."""
    import tfmix

    policy = tfmix.QuantizationPolicy.uniform(model, 8)
    report = tfmix.memory_report(model, policy, budget)
    facts = {"flash_at_8_bits": report.flash_bytes, "ram_at_8_bits": report.ram_bytes}
    sums = str(report).rpartition("-\n")[2].splitlines()  # below the table
    lines = ["at 8 bits:", *(f"  {line}" for line in sums)]
    if report.fits:
        return {"fits": True, **facts}, lines
    try:
        found = tfmix.search_policy(model, budget, "memory", verbose=0)
    except tfmix.BudgetError as error:
        return {"fits": False, **facts, "reason": str(error)}, [*lines, f"no bits fit: {error}"]
    facts |= {"flash": found.flash_bytes, "ram": found.ram_bytes}
    lines.append(f"with fewer bits it fits: FLASH {found.flash_bytes:,} B")
    lines[-1] += f", RAM {found.ram_bytes:,} B"
    return {"fits": True, **facts}, lines
