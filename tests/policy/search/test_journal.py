"""The journal file: what it holds, torn lines, journals of other searches, damage."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import graphs
import pytest
from fake_network import FakeNetwork

from tfmix.budget import Budget
from tfmix.errors import FormatError, TfmixError
from tfmix.policy.cost.memory import DeployedMemory, PaperMemory
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.journal import fingerprint
from tfmix.policy.search.session import SearchSession, run

GRAPH = graphs.resnet()
PROBLEM = SearchProblem(
    PaperMemory(GRAPH),
    Budget(60_000, 30_000, "paper"),
    Pinned.parse(GRAPH, {"weights": {"b2_0": 8}}),
    frozenset({"accuracy", "loss"}),
    seed=3,
)
OPTIONS = {"episodes": 6}


def open_session(path, problem=PROBLEM, method="random", options=OPTIONS, identity="data 1"):
    return SearchSession(method, problem, journal=path, identity=identity, options=options)


def finish(session):
    return run(session, FakeNetwork(GRAPH).evaluate_many, progress=lambda session: None)


@pytest.fixture
def journal(tmp_path):
    """Of a finished search."""
    path = tmp_path / "journal.jsonl"
    finish(open_session(path))
    return path


def test_what_it_holds(journal):
    header, *records = map(json.loads, journal.read_text().splitlines())
    assert header["format"] == "tfmix.SearchJournal" and header["version"] == 1
    assert header["method"] == "random" and header["options"] == OPTIONS and header["seed"] == 3
    assert header["budget"]["flash"] == 60_000 and header["budget"]["accounting"] == "paper"
    assert header["pinned"] == {"weights": {"b2_0": 8}, "activations": {}}
    assert header["network"] == fingerprint(GRAPH) and header["identity"] == "data 1"
    assert [record["trial"] for record in records] == [5, 4, 3, 2, 1, 0]
    result = open_session(journal).result
    for record, evaluation in zip(reversed(records), result.evaluations, strict=True):
        assert record["value"] == evaluation.value
        assert record["flash_bytes"] == evaluation.flash_bytes
        assert record["asked"]["weight_bits"] == evaluation.trial.policy.weight_bits


def test_every_byte_at_which_writing_may_end(journal):
    """However much of the file is there, the search goes on from its whole lines."""
    content = journal.read_bytes()
    whole = finish(open_session(journal))
    lines = content.count(b"\n")
    positions = {0, 1, 20, len(content) - 1}
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    positions |= {end + offset for end in ends for offset in (-1, 0, 1, 30)}
    for position in sorted(p for p in positions if p <= len(content)):
        journal.write_bytes(content[:position])
        session = open_session(journal)
        assert session.replayed == max(content[:position].count(b"\n") - 1, 0)
        again = finish(session)
        assert again.policy == whole.policy and again.score == whole.score
        assert journal.read_bytes().count(b"\n") == lines
        assert open_session(journal).done


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ilp", "options": {}}, "method: 'random' there, 'ilp' here"),
        ({"options": {"episodes": 7}}, "options.episodes: 6 there, 7 here"),
        ({"options": {}}, "options.episodes: 6 there, None here"),
        ({"identity": "data 2"}, "identity: 'data 1' there, 'data 2' here"),
        ({"problem": replace(PROBLEM, seed=4)}, "seed: 3 there, 4 here"),
        (
            {"problem": replace(PROBLEM, budget=Budget(50_000, 30_000, "paper"))},
            "budget.flash: 60000 there, 50000 here",
        ),
        (
            {"problem": replace(PROBLEM, budget=Budget(60_000, 30_000))},
            "budget.accounting: 'paper' there, 'deployed' here",
        ),
        (
            {"problem": replace(PROBLEM, memory=DeployedMemory(GRAPH, lambda policy: 1000))},
            "budget.bytes at most bits: ",
        ),
        ({"problem": replace(PROBLEM, pinned=Pinned())}, "pinned.weights.b2_0: 8 there, None here"),
        (
            {"problem": replace(PROBLEM, memory=PaperMemory(graphs.resnet(classes=11)))},
            "network: '",
        ),
    ],
)
def test_a_journal_of_another_search(journal, changes, message):
    before = journal.read_bytes()
    with pytest.raises(TfmixError, match="belongs to another search") as error:
        open_session(journal, **changes)
    assert message in str(error.value)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello", b"hello\n", b"[]\n", b"{}\n", b'{"format": "x"}'])
def test_foreign_files_are_left_alone(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        open_session(path)
    assert path.read_bytes() == content


def test_newer_and_damaged_files(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0].replace(b'"version": 1', b'"version": 2'), *lines[1:]]))
    with pytest.raises(FormatError, match="version 2; this library reads 1"):
        open_session(journal)
    for damage in (b"\0\0\0\n", b'{"trial": 3}\n', b'{"trial": 3, "value": "x", "asked": 1}\n'):
        journal.write_bytes(b"".join([*lines[:3], damage, *lines[4:]]))
        with pytest.raises(FormatError, match="line 4: damaged"):
            open_session(journal)


def test_a_trial_that_is_not_the_journals(journal):
    text = journal.read_text()
    journal.write_text(text.replace('"measure": "accuracy"', '"measure": "loss"', 1))
    with pytest.raises(TfmixError, match="trial 5 was another one when the journal was written"):
        open_session(journal)


def test_places_that_cannot_be_written(tmp_path):
    for path in (tmp_path / "nowhere" / "journal", tmp_path):
        with pytest.raises(TfmixError, match="cannot use the journal"):
            open_session(path)


def test_two_processes_on_one_journal(journal):
    holds_it = (
        "import fcntl, sys; f = open(sys.argv[1], 'a+b'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holds_it, journal], **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(TfmixError, match="is in use by another process"):
            open_session(journal)
        other.communicate(b"\n")
    finish(open_session(journal))


def test_options_that_json_cannot_hold(tmp_path):
    with pytest.raises(TfmixError, match="options of search 'random' cannot be journaled"):
        open_session(tmp_path / "journal", options={"episodes": object()})


def test_tables_among_the_options(tmp_path):
    options = {"sensitivity": FakeNetwork(GRAPH).table, "refine": 0}
    first = finish(open_session(tmp_path / "journal", method="ilp", options=options))
    again = open_session(tmp_path / "journal", method="ilp", options=options)
    assert again.done and again.result.policy == first.policy
    options["sensitivity"] = FakeNetwork(GRAPH, seed=1).table
    with pytest.raises(TfmixError, match="options.sensitivity.source: 'random, seed 0' there"):
        open_session(tmp_path / "journal", method="ilp", options=options)


def test_kill_9(tmp_path):
    """Killed three times while it measures, and then left to end."""
    path = tmp_path / "journal"

    def slow(trials):
        for position, value in FakeNetwork(GRAPH).evaluate_many(trials):
            time.sleep(0.02)
            yield position, value

    def lines():
        return path.read_bytes().count(b"\n") if path.exists() else 0

    measured = []
    for _ in range(3):
        before = lines()
        child = os.fork()
        if child == 0:
            try:
                run(open_session(path, method="ilp", options={}), slow, progress=lambda s: None)
            finally:
                os._exit(1)
        while lines() < before + 5:
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        measured.append(lines() - 1)
    assert measured == sorted(set(measured))
    session = open_session(path, method="ilp", options={})
    assert session.replayed == measured[-1]
    whole = finish(SearchSession("ilp", PROBLEM))
    resumed = finish(session)
    assert resumed.policy == whole.policy and resumed.score == whole.score
