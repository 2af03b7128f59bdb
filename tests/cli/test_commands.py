"""check, search, evaluate, export, run, inspect and report on one quantized network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import searchable
import tf_keras

import tfmix as library
from tfmix.cli.directory import Directory, read_policy


@pytest.fixture(scope="module")
def integer(out) -> library.IntegerModel:
    return library.convert(tf_keras.models.load_model(out / "model.keras", compile=False))


@pytest.fixture(scope="module")
def tflite(integer, files):
    return library.export(integer, files / "network.tflite")


def test_check(files, budget, tfmix):
    model = files / "model.keras"
    assert tfmix("check", model) == (0, {"model": str(model), "problems": []})
    code, document = tfmix("check", model, "--budget", budget)
    assert (code, document["fits"]) == (0, True)
    assert document["flash"] <= searchable.budget().flash < document["flash_at_8_bits"]
    code, document = tfmix("check", model, "--budget", "ram=500")
    assert (code, document["fits"]) == (1, False)


def test_check_lists_all_problems(files, tfmix):
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [layers.Input((8, 3)), layers.LSTM(4, name="memory"), layers.PReLU(name="slope")]
    )
    model.save(files / "odd.keras")
    code, document = tfmix("check", files / "odd.keras")
    assert code == 1
    assert [p.split()[0] for p in document["problems"]][-2:] == ["memory", "slope"]
    assert tfmix("check", files / "nothing.keras")[0] == 1


def test_search(files, budget, tfmix):
    policy, journal, table = files / "p.json", files / "j.jsonl", files / "t.json"
    argv = ["search", files / "model.keras", "--budget", budget, "--journal", journal]
    argv += ["--validation", files / "data.npz", "--search-option", "refine=0"]
    argv += ["--out", policy, "--table", table, "--pin", "weights:a=4", "--search", "ilp"]
    code, document = tfmix(*argv)
    found = read_policy(policy)
    assert (code, document["policy"], found.weight_bits["a"]) == (0, json.loads(found.to_json()), 4)
    assert document["flash_bytes"] <= searchable.budget().flash
    size = journal.stat().st_size
    assert tfmix(*argv) == (0, document)
    assert journal.stat().st_size == size, "nothing is measured again"
    assert json.loads(table.read_text())["format"] == "tfmix.SensitivityTable"


def test_evaluate(files, out, tflite, integer, tfmix):
    x, y = searchable.data()
    wanted = float(np.mean(integer.predict(x).argmax(axis=1) == y))
    code, document = tfmix("evaluate", out, "--data", files / "data.npz")
    assert (code, document["measure"], document["samples"]) == (0, "accuracy", len(y))
    assert document["values"]["integer"] == wanted
    scores = Directory(out).read()["scores"]["values"]
    assert {name: document["values"][name] for name in scores} == pytest.approx(scores, abs=0.005)
    values = tfmix("evaluate", tflite, "--data", files / "data.npz")[1]["values"]
    assert values == {"integer": wanted}
    document = tfmix("evaluate", out, "--data", files / "inputs.npz", "--limit", 20)[1]
    assert (document["measure"], document["samples"]) == ("agreement", 20)
    assert document["values"]["float"] == 1
    values = tfmix("evaluate", files / "model.keras", "--data", files / "data.npz")[1]["values"]
    assert list(values) == ["float"]


def test_export(files, out, tflite, tfmix):
    argv = ["--c", files / "c", "--name", "net", "--resolver", files / "ops.h"]
    code, document = tfmix("export", out, *argv, "--data", files / "inputs.npz")
    assert (code, document["files"][0]["file"]) == (0, str(out / "model.tflite"))
    assert (out / "model.tflite").read_bytes() == tflite.read_bytes()
    assert {p.name for p in (files / "c").iterdir()} >= {"net.c", "net.h"}
    assert "namespace ops" in (files / "ops.h").read_text()
    assert tfmix("export", files / "model.keras")[0] == 2


def test_run(files, tflite, integer, tfmix):
    x, y = searchable.data()
    argv = ["run", tflite, "--data", files / "data.npz", "--limit", 9]
    code, document = tfmix(*argv)
    assert (code, document["samples"]) == (0, 9)
    np.testing.assert_array_equal(np.float32(document["outputs"]), integer.predict(x[:9]))
    code, document = tfmix(*argv, "--out", files / "y.npz", "--backend", "reference")
    assert document["values"] == {"integer": np.mean(integer.predict(x[:9]).argmax(1) == y[:9])}
    np.testing.assert_array_equal(np.load(files / "y.npz")["y"], integer.predict(x[:9]))


def test_inspect(out, tflite, integer, tfmix):
    code, document = tfmix("inspect", tflite)
    policy = Directory(out).policy()
    found = {o["name"]: o["weight_bits"] for o in document["operators"] if o["weight_bits"]}
    assert (code, found) == (0, policy.weight_bits)
    bits = {t["name"]: t["bits"] for t in document["tensors"]}
    assert policy.activation_bits.items() <= bits.items()
    qmodel = tf_keras.models.load_model(out / "model.keras", compile=False)
    report = library.memory_report(qmodel)
    assert document["file_bytes"] == report.flash_bytes == tflite.stat().st_size
    assert document["arena_bytes"] == report.activation_bytes
    assert tfmix("inspect", out / "policy.json")[0] == 2


def test_inspect_layers_that_run_row_by_row(files, out, tfmix):
    qmodel = tf_keras.models.load_model(out / "model.keras", compile=False)
    model = library.convert(qmodel, budget=library.Budget(ram=100))
    library.export(model, files / "rows.tflite")
    whole = library.Budget(streaming="off")
    library.export(qmodel, files / "whole.tflite", budget=whole)
    code, document = tfmix("inspect", files / "rows.tflite")
    chains = [tuple(chain["operators"]) for chain in document["chains"]]
    assert code == 0 and chains and tuple(chains) == model.network.chains
    scratch = {o["name"]: o["scratch_bytes"] for o in document["operators"]}
    for name in scratch:
        assert (scratch[name] is None) == any(name in chain for chain in chains)
    whole = tfmix("inspect", files / "whole.tflite")[1]
    assert not whole["chains"] and document["arena_bytes"] < whole["arena_bytes"]


def test_report(files, out, tfmix):
    argv = ["report", out, "--data", files / "data.npz", "--limit", 64, "--clock", "480 MHz"]
    code, document = tfmix(*argv)
    assert (code, document["scores"]["samples"]) == (0, 64)
    assert document == json.loads((out / "report.json").read_text())
    assert document["memory"]["flash_limit"] == searchable.budget().flash
    assert document["instructions"]["clock_hz"] == 480e6
    assert document["sensitivity"] and document["one_more_kilobyte"]["flash"]["gain"] >= 0
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert tfmix("report", out, "--clock", "fast")[0] == 2
    assert tfmix("report", files / "model.keras")[0] == 2


def test_text_is_for_people(files, out, tflite, capsys):
    from tfmix.cli.main import main

    assert main(["inspect", str(tflite)]) == 0
    assert "conv2d_a8w" in capsys.readouterr().out
    assert main(["run", str(tflite), "--data", str(files / "data.npz"), "--limit", "12"]) == 0
    shown = capsys.readouterr().out
    assert "... and 2 more" in shown and "accuracy on 12 samples" in shown
    assert main(["check", str(files / "model.keras"), "--budget", "ram=500"]) == 1
    assert "no bits fit" in capsys.readouterr().out
