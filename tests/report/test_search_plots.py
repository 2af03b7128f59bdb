"""What the pictures of a search show, read back from their axes."""

import math
import sys
from dataclasses import replace

import graphs
import numpy as np
import pytest
from fake_network import FakeNetwork

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.search.base import SearchProblem
from tfmix.policy.sensitivity import SensitivityTable
from tfmix.report.search_plots import (
    plot_pareto,
    plot_search_bits,
    plot_search_memory,
    plot_sensitivity,
)

GRAPH = graphs.resnet()
PROBLEM = SearchProblem(
    PaperMemory(GRAPH), Budget(60_000, 30_000), measures=frozenset({"accuracy", "loss"})
)


@pytest.fixture(scope="module")
def ilp():
    return FakeNetwork(GRAPH).search("ilp", PROBLEM)


@pytest.fixture(scope="module")
def random():
    return FakeNetwork(GRAPH).search("random", PROBLEM, episodes=12)


def labels(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def legend(thing):
    return [text.get_text() for text in thing.get_texts()]


def test_bits(ilp):
    figure = plot_search_bits(ilp)
    panels = figure.axes
    assert [axes.get_title() for axes in panels] == [
        "weights, trial",
        "weights, best so far",
        "activations, trial",
        "activations, best so far",
    ]
    assert labels(panels[0]) == list(ilp.policy.weight_bits)
    assert labels(panels[2]) == list(ilp.policy.activation_bits)
    shown = [np.ma.filled(axes.images[0].get_array().astype(float), math.nan) for axes in panels]
    for column, evaluation in enumerate(ilp.evaluations):
        policy = evaluation.trial.policy
        assert list(shown[0][:, column]) == list(policy.weight_bits.values())
        assert list(shown[2][:, column]) == list(policy.activation_bits.values())
        if evaluation.best is None:
            assert np.isnan(shown[1][:, column]).all() and np.isnan(shown[3][:, column]).all()
        else:
            best = ilp.evaluations[evaluation.best].trial.policy
            assert list(shown[1][:, column]) == list(best.weight_bits.values())
            assert list(shown[3][:, column]) == list(best.activation_bits.values())
    assert np.isnan(shown[1]).any() and not np.isnan(shown[1]).all()
    image = panels[0].images[0]
    assert len({image.to_rgba(np.array([[bits]])).tobytes() for bits in (2, 4, 8)}) == 3
    assert legend(figure.legends[0]) == ["2 bits", "4 bits", "8 bits"]


def test_memory(random):
    figure = plot_search_memory(random)
    for axes, what, limit in zip(figure.axes, ("flash", "ram"), (60_000, 30_000), strict=True):
        trials, best, budget = (line.get_ydata() for line in axes.lines)
        sizes = [getattr(e, f"{what}_bytes") / 1024 for e in random.evaluations]
        assert list(trials) == sizes
        assert list(best) == [sizes[e.best] for e in random.evaluations]
        assert set(budget) == {limit / 1024}
        assert axes.get_ylabel() == f"{what.upper()}, kB"
        assert legend(axes.get_legend()) == ["trial", "best so far", "budget"]
    unlimited = replace(random, budget=Budget(None, 30_000))
    assert [len(axes.lines) for axes in plot_search_memory(unlimited).axes] == [2, 3]


@pytest.mark.parametrize("size", ["flash", "ram"])
def test_pareto(ilp, random, size):
    (axes,) = plot_pareto([ilp, random], size, trials=True).axes
    by_label = {line.get_label(): line for line in axes.lines}
    for result in (ilp, random):
        (x,), (y,) = by_label[result.method].get_data()
        assert (x, y) == (getattr(result, f"{size}_bytes") / 1024, result.score)
    tried = [line for line in axes.lines if line.get_label().startswith("_")]
    assert [len(line.get_xdata()) for line in tried] == [
        sum(e.trial.measure == "accuracy" for e in result.evaluations) for result in (ilp, random)
    ]
    everything = [p for line in tried for p in zip(*line.get_data(), strict=True)]
    front = list(zip(*by_label["best"].get_data(), strict=True))
    assert front == sorted(
        {
            (x, y)
            for x, y in everything
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in everything)
        }
    )
    assert axes.get_xlabel() == f"{size.upper()}, kB" and axes.get_ylabel() == "accuracy"


def test_pareto_of_one_result_and_of_seeds(ilp, random):
    assert legend(plot_pareto(ilp).axes[0].get_legend()) == ["ilp", "best"]
    (axes,) = plot_pareto([ilp, random, random], labels=["a", "b", "b"]).axes
    assert legend(axes.get_legend()) == ["a", "b", "best"]
    assert [len(line.get_xdata()) for line in axes.lines[:2]] == [1, 2]


def test_sensitivity():
    table = SensitivityTable(
        {"conv": {2: 0.5, 4: 0.25}, "dense": {2: 0.125, 4: -1.0, 8: 0.0}},
        {"t": {2: 0.0625, 4: 0.0}},
        "by hand",
    )
    figure = plot_sensitivity(table)
    weights, activations, colours = figure.axes
    assert labels(weights) == ["conv", "dense"] and labels(activations) == ["t"]
    assert [text.get_text() for text in weights.get_xticklabels()] == ["4 bits", "2 bits"]
    assert weights.images[0].get_array().filled(0).tolist() == [[0.25, 0.5], [0.0, 0.125]]
    assert activations.images[0].get_array().filled(0).tolist() == [[0.0, 0.0625]]
    for image in (weights.images[0], activations.images[0]):
        assert image.norm.vmax == 0.5 and 0.06 < image.norm.vmin <= 0.0625
    assert colours.get_ylabel() == "loss increase, nats a sample"
    assert figure.get_suptitle() == "Sensitivity, by hand"


def test_they_can_be_saved(ilp, tmp_path):
    figures = (
        plot_search_bits(ilp),
        plot_search_memory(ilp),
        plot_pareto(ilp, trials=True),
        plot_sensitivity(ilp.table),
    )
    for number, figure in enumerate(figures):
        path = tmp_path / f"{number}.png"
        figure.savefig(path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_nothing_to_show(ilp, random):
    measured_nothing = FakeNetwork(GRAPH).search("memory", PROBLEM)
    for plot in (plot_search_bits, plot_search_memory):
        with pytest.raises(TfmixError, match="'memory' measured nothing"):
            plot(measured_nothing)
    with pytest.raises(TfmixError, match="'memory' measured nothing, not the accuracy"):
        plot_pareto([ilp, measured_nothing])
    without_labels = FakeNetwork(GRAPH).search(
        "ilp", replace(PROBLEM, measures=frozenset({"loss"}))
    )
    with pytest.raises(TfmixError, match="'ilp' measured loss, not the accuracy"):
        plot_pareto(without_labels)
    with pytest.raises(TfmixError, match="1 labels for 2 results"):
        plot_pareto([ilp, random], labels=["a"])
    with pytest.raises(TfmixError, match="size 'time' is not one of"):
        plot_pareto(ilp, "time")
    with pytest.raises(TfmixError, match="nothing above zero"):
        plot_sensitivity(SensitivityTable({"conv": {2: 0.0, 4: 0.0}}, {}))


def test_without_matplotlib(ilp, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for plot, what in (
        (plot_search_bits, ilp),
        (plot_search_memory, ilp),
        (plot_pareto, ilp),
        (plot_sensitivity, ilp.table),
    ):
        with pytest.raises(TfmixError, match="pip install tfmix"):
            plot(what)
