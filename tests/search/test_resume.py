"""Nothing is lost: a search killed by kill -9 goes on from its journal, to the same result."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import search_to_kill
import searchable

#: (method, place, number of the call at which the process dies)
DEATHS = [
    ("rl", "episode", 14),
    ("rl", "journal", 4),
    ("ilp", "sensitivity", 9),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    searchable.quantized().save(path)
    return str(path)


@pytest.fixture(scope="module")
def killed(model, tmp_path_factory) -> dict[tuple[str, str, int], Path]:
    """The journal of each. They die side by side: TensorFlow is slow to start."""
    directory = tmp_path_factory.mktemp("journals")
    journals, processes = {}, []
    for death in DEATHS:
        method, place, number = death
        journals[death] = directory / f"{method}-{place}-{number}.jsonl"
        command = [sys.executable, search_to_kill.__file__, method, model, journals[death]]
        processes.append(subprocess.Popen([*map(str, command), place, str(number)]))
    assert {process.wait() for process in processes} == {-signal.SIGKILL}
    return journals


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> dict[str, search_to_kill.tfmix.SearchResult]:
    """What searches find that nobody kills."""
    directory = tmp_path_factory.mktemp("whole")
    return {
        method: search_to_kill.search(method, model, str(directory / method))
        for method in ("rl", "ilp")
    }


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_search_ends_as_if_it_had_not_been(death, model, killed, whole):
    method, place, number = death
    before = killed[death].read_bytes()
    assert before.endswith(b"\n") == (place != "journal")
    resumed = search_to_kill.search(method, model, str(killed[death]))
    assert killed[death].read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert resumed.policy == whole[method].policy
    assert resumed.score == whole[method].score
    values = [evaluation.value for evaluation in resumed.evaluations]
    assert values == [evaluation.value for evaluation in whole[method].evaluations]


def test_a_finished_search_measures_nothing_again(model, killed, whole, monkeypatch):
    journal = killed["ilp", "sensitivity", 9]
    monkeypatch.setattr(search_to_kill.ModelEvaluator, "_value", None)
    assert search_to_kill.search("ilp", model, str(journal)).policy == whole["ilp"].policy
