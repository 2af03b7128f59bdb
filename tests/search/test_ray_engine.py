"""engine="ray": the same results from two workers, of which one may be killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import searchable

import tfmix
from tfmix.errors import TfmixError
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.policy.search.base import Trial

X, Y = searchable.data()
BUDGET = searchable.budget()


@pytest.fixture(scope="module")
def ray():
    """A cluster of two CPUs."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install tfmix[ray]")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def qmodel():
    return searchable.quantized()


def workers() -> list[int]:
    """Process ids of this cluster's workers of ours."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if directory.joinpath("cmdline").read_bytes().startswith(b"ray::_Worker"):
                found.append(int(directory.name))
        except OSError:
            continue  # it has just ended
    return found


@pytest.mark.parametrize("method", ["ilp", "evolutionary"])
def test_the_same_result_as_serial(ray, qmodel, method):
    results = [
        tfmix.search_policy(
            qmodel, BUDGET, method, validation_data=(X, Y), engine=engine, verbose=0
        )
        for engine in ("serial", "ray")
    ]
    assert results[0].policy == results[1].policy
    assert results[0].score == pytest.approx(results[1].score, rel=1e-6)
    assert ray.is_initialized(), "the search ended a cluster that it had not begun"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for workers in /proc")
def test_a_killed_worker_loses_nothing(ray, qmodel):
    from tfmix.search.ray_engine import RayEngine

    policies = [
        tfmix.QuantizationPolicy.uniform(qmodel, 8).replace(weights={name: bits})
        for name in "abcd"
        for bits in (2, 4)
    ]
    trials = [Trial(policy, "loss") for policy in policies]
    evaluator = ModelEvaluator(qmodel, (X, Y), train_data=(X[:32], Y[:32]))
    expected = dict(evaluator(trials))
    found = {}
    with RayEngine(evaluator) as engine:
        for position, value in engine(trials):
            if not found:
                os.kill(workers()[0], signal.SIGKILL)
            found[position] = value
        assert found == pytest.approx(expected, rel=1e-5)
        with pytest.raises(TfmixError, match="the policy does not belong to this network"):
            list(engine([Trial(tfmix.QuantizationPolicy({}, {}))]))
        assert dict(engine(trials[:3])) == {i: pytest.approx(found[i]) for i in range(3)}


def test_a_trial_that_kills_its_workers_is_an_error(ray, qmodel, monkeypatch):
    from tfmix.search import ray_engine

    class Deadly(ray_engine._Worker):
        def value(self, trial):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ray_engine, "_Worker", Deadly)
    monkeypatch.setattr(ray_engine, "MAX_LOSSES", 1)
    evaluator = ModelEvaluator(qmodel, (X[:32], Y[:32]))
    with (
        ray_engine.RayEngine(evaluator, workers=1) as engine,
        pytest.raises(TfmixError, match="1 workers died while they measured one trial"),
    ):
        list(engine([Trial(tfmix.QuantizationPolicy.uniform(qmodel, 8), "loss")]))


def test_without_ray_the_error_says_how_to_get_it(qmodel, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TfmixError, match=r"needs Ray: pip install tfmix\[ray\]"):
        tfmix.search_policy(qmodel, BUDGET, "ilp", validation_data=(X, Y), engine="ray", verbose=0)
