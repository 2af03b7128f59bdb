"""The facts of a report against those who know them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import searchable
import tf_keras

import tfmix
from tfmix.errors import TfmixError
from tfmix.fakequant.apply import graph_of
from tfmix.policy.cost.instructions import network_instructions
from tfmix.policy.sensitivity import SensitivityTable
from tfmix.report.facts import gather

X, Y = searchable.data()
BUDGET = searchable.budget()


@pytest.fixture(scope="module")
def qmodel() -> tf_keras.Model:
    model = searchable.quantized()
    tfmix.set_policy(model, tfmix.search_policy(model, BUDGET, "memory", verbose=0).policy)
    return model


@pytest.fixture(scope="module")
def table(qmodel) -> SensitivityTable:
    graph = graph_of(qmodel)
    return SensitivityTable(
        {node.name: {4: 0.1, 2: 1.0 + i} for i, node in enumerate(graph.weighted_nodes)},
        {t: {4: 0.2, 2: 2.0 + i} for i, t in enumerate(graph.quantized_tensors)},
        "made up",
    )


@pytest.fixture(scope="module")
def facts(qmodel, table) -> dict:
    found = gather(
        qmodel, data=(X[:96], Y[:96]), reference=searchable.trained(), budget=BUDGET, table=table
    )
    return json.loads(json.dumps(found, allow_nan=False))


def test_memory(facts, qmodel):
    report = tfmix.memory_report(qmodel, budget=BUDGET)
    memory = facts["memory"]
    assert (memory["flash_bytes"], memory["ram_bytes"]) == (report.flash_bytes, report.ram_bytes)
    assert (memory["flash_limit"], memory["fits"]) == (BUDGET.flash, True)
    assert [step["name"] for step in facts["steps"]] == [step.name for step in report.steps]
    for step, line in zip(facts["steps"], report.steps, strict=True):
        assert step["live_bytes"] == line.live_bytes
        sizes = sum(alive["bytes"] for alive in step["alive"])
        assert sizes == line.input_bytes + line.output_bytes + line.held_bytes


def test_tensors(facts, qmodel):
    policy = tfmix.get_policy(qmodel)
    for kind, bits in (("weights", policy.weight_bits), ("activations", policy.activation_bits)):
        assert {t["name"]: t["bits"] for t in facts["tensors"][kind]} == bits
        for t in facts["tensors"][kind]:
            assert t["bytes"] == math.ceil(math.prod(t["shape"]) * t["bits"] / 8)
    weights = sum(t["bytes"] for t in facts["tensors"]["weights"])
    assert weights == facts["memory"]["weight_bytes"]


def test_instructions(facts, qmodel):
    found = network_instructions(graph_of(qmodel), tfmix.get_policy(qmodel))
    instructions = facts["instructions"]
    assert instructions["layers"] == found
    assert instructions["total"] == sum(found.values()) + instructions["row_by_row"]
    assert instructions["milliseconds"] == pytest.approx(1e3 * instructions["total"] / 216e6)
    chains = [step for step in facts["steps"] if step["layers"]]
    assert (instructions["row_by_row"] > 0) == bool(chains)
    assert not instructions["unknown"]


def test_scores(facts, qmodel):
    scores = facts["scores"]
    predicted = {
        "float": searchable.trained().predict(X[:96], verbose=0),
        "fake_quant": qmodel.predict(X[:96], verbose=0),
        "integer": tfmix.convert(qmodel).predict(X[:96]),
    }
    for name, outputs in predicted.items():
        assert scores["values"][name] == np.mean(outputs.argmax(axis=1) == Y[:96])


def test_errors(facts, qmodel):
    """The last layer's error so far is that of the whole network; few bits make large errors."""
    errors = {e["node"]: e for e in facts["errors"]}
    assert list(errors) == [node.name for node in graph_of(qmodel).steps]
    differences = {d.node: d for d in tfmix.compare(qmodel, tfmix.convert(qmodel), X[:64])}
    for name, e in errors.items():
        assert (e["integer_max_lsb"], e["reason"]) == (
            differences[name].max_lsb,
            differences[name].reason,
        )
    outputs = qmodel.predict(X[:64], verbose=0)
    wanted = searchable.trained().predict(X[:64], verbose=0)
    noise = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - outputs).sum())
    assert errors["e"]["total_db"] == pytest.approx(noise, abs=0.1)
    assert errors["e"]["own_db"] is None, "a softmax is in float"
    assert errors["d"]["total_db"] < errors["d"]["own_db"]


def test_one_more_kilobyte(facts):
    """Of a table made up so that more bits are always better."""
    more = facts["one_more_kilobyte"]
    assert more["optimum"] <= more["policy"] + 1e-9
    for what in ("flash", "ram"):
        assert more[what]["loss"] == pytest.approx(more["optimum"] - more[what]["gain"])
        assert (more[what]["gain"] > 0) == bool(more[what]["changes"])
    assert more["flash"]["gain"] > 0


def test_without_data_table_and_budget(qmodel, table):
    facts = gather(qmodel)
    for missing in ("budget", "scores", "errors", "sensitivity", "one_more_kilobyte"):
        assert facts[missing] is None
    assert gather(qmodel, table=table)["one_more_kilobyte"] is None
    inputs = gather(qmodel, data=X[:32])
    assert inputs["scores"]["measure"] == "agreement" and inputs["errors"]


def test_what_does_not_fit_is_said(qmodel, table):
    small = tfmix.Budget(BUDGET.flash, 900)
    facts = gather(qmodel, budget=small, table=table)
    assert not facts["memory"]["fits"]
    assert facts["one_more_kilobyte"] is None, "nothing fits at all"


def test_wrong_arguments(qmodel, table):
    with pytest.raises(TfmixError, match="clock_hz 0 is not a positive frequency"):
        gather(qmodel, clock_hz=0)
    with pytest.raises(TfmixError, match="no 'other' in the network"):
        gather(qmodel, table=replace(table, weights={"other": {4: 0.0, 2: 0.0}}))
    with pytest.raises(TfmixError, match="is not a fake-quant model"):
        gather(searchable.trained())
