"""SensitivityTable: checks, noise, JSON, text."""

import graphs
import pytest
from fake_network import random_table

from tfmix.errors import FormatError, TfmixError
from tfmix.policy.sensitivity import SensitivityTable

GRAPH = graphs.resnet()


def test_json_round_trip():
    table = random_table(GRAPH)
    again = SensitivityTable.from_json(table.to_json())
    assert again == table and again.source == "random, seed 0"
    assert list(again.weights) == list(table.weights)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a sensitivity table"),
        ('{"format": "tfmix.QuantizationPolicy", "version": 1}', "not a sensitivity table"),
        ('{"format": "tfmix.SensitivityTable", "version": 2}', "version 2; this library reads 1"),
        ('{"format": "tfmix.SensitivityTable", "version": 1}', "has {name: {bits: number}}"),
        (
            '{"format": "tfmix.SensitivityTable", "version": 1, "weights": {"a": {"x": 1}}, '
            '"activations": {}}',
            "has {name: {bits: number}}",
        ),
    ],
)
def test_bad_json(text, message):
    with pytest.raises(FormatError, match=message):
        SensitivityTable.from_json(text)


def test_validate_lists_all_problems():
    random_table(GRAPH).validate(GRAPH)
    SensitivityTable({"conv1": {2: 1.0, 4: 0.5}}, {}).validate(GRAPH)  # 8 bits are the baseline
    table = SensitivityTable(
        {"nope": {2: 1, 4: 1}, "conv1": {2: float("nan"), 4: 0.0}, "a0_0": {4: 0.0}},
        {"softmax": {2: 1, 4: 1}, "conv1": {2: 1, 3: 1, 4: 1}},
    )
    with pytest.raises(TfmixError) as error:
        table.validate(GRAPH)
    for part in (
        "weights: no 'nope'",
        "weights 'conv1' at 2 bits: nan",
        "weights 'a0_0': bit-widths [4], not (2, 4, 8)",
        "activations: no 'softmax'",
        "activations 'conv1': bit-widths [2, 3, 4]",
    ):
        assert part in str(error.value)


def test_monotone_takes_out_what_must_be_noise():
    rows = {"a": {2: 0.1, 4: 0.3, 8: 0.0}, "b": {2: 0.5, 4: -0.2}, "c": {2: -1, 4: -2, 8: -3}}
    table = SensitivityTable(rows, {"t": {2: 0.2, 4: 0.1, 8: 0.05}}).monotone()
    assert table.weights["a"] == {8: 0.0, 4: 0.3, 2: 0.3}
    assert table.weights["b"] == {8: 0.0, 4: 0.0, 2: 0.5}
    assert table.weights["c"] == {8: 0.0, 4: 0.0, 2: 0.0}
    assert table.activations["t"] == {8: 0.05, 4: 0.1, 2: 0.2}
    assert table.monotone() == table


def test_text():
    lines = str(SensitivityTable({"conv": {2: 0.5, 4: 0.125}}, {"t": {2: 1e-9, 4: 0}})).split("\n")
    assert lines[0] == "loss increase in nats a sample, source unknown"
    assert lines[1].split() == ["weights", "8", "bits", "4", "bits", "2", "bits"]
    assert lines[2].split() == ["conv", "0", "0.125", "0.5"]
    assert lines[4].split() == ["t", "0", "0", "1e-09"]
