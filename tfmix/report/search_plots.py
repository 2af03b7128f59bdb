"""Pictures of a search: bits and bytes trial by trial, methods against each other, sensitivities.

Each function returns a matplotlib Figure, to show in a notebook or to save with `savefig`. Where
matplotlib is missing (`pip install tfmix[plot]`), TfmixError says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tfmix.errors import TfmixError
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.session import Evaluation, SearchResult
from tfmix.policy.sensitivity import SensitivityTable
from tfmix.report.plots import COLOURS, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_search_bits(result: SearchResult) -> Figure:
    """The bits of every tensor in every trial, and of the best policy so far.

    Weights above, activations below; rows are tensors in execution order, columns are trials in the
    order in which they were measured. White: nothing measured would do as a result yet.
    """
    current: list[QuantizationPolicy | None] = [e.trial.policy for e in _history(result)]
    best: list[QuantizationPolicy | None] = [
        None if e.best is None else result.evaluations[e.best].trial.policy
        for e in result.evaluations
    ]
    names = {
        "weights": list(result.policy.weight_bits),
        "activations": list(result.policy.activation_bits),
    }
    rows = sum(map(len, names.values()))
    figure = new_figure((11.0, max(5.0, 2.0 + 0.17 * rows)))
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    panels = figure.subplots(
        2, 2, sharex=True, squeeze=False, height_ratios=[max(len(n), 1) for n in names.values()]
    )
    colours = ListedColormap([COLOURS[bits] for bits in BIT_WIDTHS])
    norm = BoundaryNorm([0, *(bits + 0.5 for bits in BIT_WIDTHS)], len(BIT_WIDTHS))
    for line, (kind, tensors) in zip(panels, names.items(), strict=True):
        for axes, title, policies in zip(
            line, ("trial", "best so far"), (current, best), strict=True
        ):
            axes.imshow(
                _bits(policies, kind, tensors),
                cmap=colours,
                norm=norm,
                aspect="auto",
                interpolation="nearest",
            )
            axes.set_title(f"{kind}, {title}", fontsize=10)
            axes.set_yticks(range(len(tensors)), tensors, fontsize=6)
    for axes in panels[:, 1]:
        axes.set_yticks([])
    for axes in panels[-1]:
        axes.set_xlabel("trial")
    legend = [Patch(color=COLOURS[bits], label=f"{bits} bits") for bits in BIT_WIDTHS]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"Search {result.method!r}: bits in each trial")
    return figure


def plot_search_memory(result: SearchResult) -> Figure:
    """FLASH and RAM in every trial, of the best policy so far, and the budget."""
    history = _history(result)
    figure = new_figure((9.0, 6.0))
    for axes, what in zip(figure.subplots(2, 1, sharex=True), ("flash", "ram"), strict=True):
        sizes = [getattr(e, f"{what}_bytes") / 1024 for e in history]
        best = [math.nan if e.best is None else sizes[e.best] for e in history]
        axes.plot(sizes, ".", color=GREY, markersize=4, label="trial")
        axes.step(range(len(best)), best, where="post", color=COLOURS[4], label="best so far")
        limit = getattr(result.budget, what)
        if limit is not None:
            axes.axhline(limit / 1024, color=COLOURS[2], linestyle="--", label="budget")
        axes.set_ylabel(f"{what.upper()}, kB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("trial")
    figure.suptitle(f"Search {result.method!r}: memory in each trial")
    return figure


def plot_pareto(
    results: SearchResult | Iterable[SearchResult],
    size: Literal["flash", "ram"] = "flash",
    *,
    labels: Sequence[str] | None = None,
    trials: bool = False,
) -> Figure:
    """Accuracy against bytes, and the line of those that no other beats in both.

    Args:
      results: searches with a measured accuracy, of any methods, budgets and seeds.
      size: "flash" or "ram".
      labels: of the results; the method by default. Results of the same label share a colour.
      trials: also draw every trial that measured a policy's accuracy as a whole.

    Raises TfmixError for a result without an accuracy.
    """
    results = [results] if isinstance(results, SearchResult) else list(results)
    labels = [result.method for result in results] if labels is None else list(labels)
    if size not in ("flash", "ram"):
        raise TfmixError(f"size {size!r} is not one of ('flash', 'ram')")
    if len(labels) != len(results) or not results:
        raise TfmixError(
            f"{len(labels)} labels for {len(results)} results; as many, and one at least"
        )
    for result, label in zip(results, labels, strict=True):
        if result.measure != "accuracy":
            raise TfmixError(
                f"the result {label!r} measured {result.measure or 'nothing'}, not the accuracy of "
                "its policy"
            )

    figure = new_figure((8.0, 5.5))
    axes = figure.subplots()
    points = []
    for index, label in enumerate(dict.fromkeys(labels)):
        colour = f"C{index}"
        mine = [r for r, its in zip(results, labels, strict=True) if its == label]
        found = [(_kilobytes(r, size), r.score) for r in mine if r.score is not None]
        points += found
        axes.plot(*_columns(found), "o", color=colour, label=label, zorder=3)
        if trials:
            tried = [(_kilobytes(e, size), e.value) for r in mine for e in _accuracies(r)]
            points += tried
            axes.plot(*_columns(tried), ".", color=colour, alpha=0.3, markersize=4)
    axes.step(*_columns(_front(points)), where="post", color=GREY, linewidth=0.9, label="best")
    axes.set_xlabel(f"{size.upper()}, kB")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Accuracy against {size.upper()}")
    return figure


def plot_sensitivity(table: SensitivityTable) -> Figure:
    """What each tensor costs at each lower bit-width, on a logarithmic scale.

    Rows are tensors in the table's order. White: nothing, or less than nothing, which is noise.
    """
    widths = BIT_WIDTHS[-2::-1]
    kinds = {"weights": table.weights, "activations": table.activations}
    values = {
        kind: np.array([[row.get(bits, 0.0) for bits in widths] for row in rows.values()])
        for kind, rows in kinds.items()
    }
    positive = np.concatenate([v[v > 0] for v in values.values()])
    if not positive.size:
        raise TfmixError("the sensitivity table holds nothing above zero: there is nothing to show")
    longest = max(map(len, kinds.values()))
    figure = new_figure((7.0, max(4.0, 1.5 + 0.17 * longest)))
    from matplotlib.colors import LogNorm

    # Four decades tell tensors apart; what is below them does not matter.
    high = positive.max()
    norm = LogNorm(max(positive.min(), high / 1e4) / 1.001, high)
    panels = figure.subplots(1, 2)
    for axes, (kind, rows) in zip(panels, kinds.items(), strict=True):
        shown = np.ma.masked_less_equal(values[kind].reshape(-1, len(widths)), 0)
        picture = axes.imshow(shown, norm=norm, cmap="viridis_r", aspect="auto")
        axes.set_yticks(range(len(rows)), list(rows), fontsize=6)
        axes.set_xticks(range(len(widths)), [f"{bits} bits" for bits in widths])
        axes.set_title(kind, fontsize=10)
    figure.colorbar(picture, ax=list(panels), label="loss increase, nats a sample", extend="min")
    figure.suptitle(f"Sensitivity, {table.source}" if table.source else "Sensitivity")
    return figure


def _history(result: SearchResult) -> tuple[Evaluation, ...]:
    if not result.evaluations:
        raise TfmixError(f"search {result.method!r} measured nothing: there is nothing to show")
    return result.evaluations


def _bits(
    policies: Sequence[QuantizationPolicy | None], kind: str, tensors: Sequence[str]
) -> np.ndarray:
    """[tensors, policies], NaN where there is no policy."""
    attribute = {"weights": "weight_bits", "activations": "activation_bits"}[kind]
    columns: list[Mapping[str, float]] = [
        dict.fromkeys(tensors, math.nan) if policy is None else getattr(policy, attribute)
        for policy in policies
    ]
    return np.array([[column[name] for column in columns] for name in tensors], float).reshape(
        len(tensors), len(policies)
    )


def _accuracies(result: SearchResult) -> list[Evaluation]:
    return [
        e
        for e in result.evaluations
        if e.trial.measure == "accuracy" and not e.trial.float_activations
    ]


def _kilobytes(of: Any, size: str) -> float:
    return getattr(of, f"{size}_bytes") / 1024


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points with more accuracy than any other of as many bytes or fewer, by bytes."""
    front: list[tuple[float, float]] = []
    for size, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((size, accuracy))
    return front
