"""`tfmix quantize`: what it leaves, and how it goes on."""

import json
import shutil

import numpy as np
import pytest
import searchable
import tf_keras

import tfmix as library
from tfmix.cli.directory import STAGES, Directory
from tfmix.cli.main import main
from tfmix.fakequant.evaluate import ModelEvaluator


def test_the_directory_holds_the_model_and_how_it_came_about(out, budget, tfmix):
    directory = Directory(out)
    state = directory.read()
    assert state["stage"] == STAGES[-1]
    qmodel = tf_keras.models.load_model(directory.model, compile=False)
    assert library.get_policy(qmodel) == directory.policy()
    assert directory.budget() == searchable.budget()
    report = library.memory_report(qmodel, budget=directory.budget())
    assert report.fits
    assert directory.table() is not None
    assert state["search"]["policy"]["weight_bits"] == directory.policy().weight_bits
    assert state["scores"]["values"]["float"] > 0.85
    assert state["scores"]["values"]["fake_quant"] > 0.7
    assert len(state["training"]["loss"]) == 1


def test_a_finished_run_is_not_done_again(out, train, tfmix):
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    code, document = tfmix(*train, "--out", out)
    assert (code, document["went_on_from"], document["fits"]) == (0, "done", True)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_other_settings_need_another_directory(out, train, tfmix):
    code, document = tfmix(*train, "--out", out, "--seed", 1)
    assert code == 2
    assert "seed 0, not 1" in document["error"]


def test_stopped_in_the_search_it_goes_on(files, quantize, monkeypatch, tfmix):
    stopped = files / "stopped"
    argv = [*quantize, "--search", "random", "--search-option", "episodes=6", "--out", stopped]
    argv.remove("refine=0")
    argv.remove("--search-option")
    asked = []
    value = ModelEvaluator._value

    def stop_at_the_fourth(self, trial):
        asked.append(trial)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return value(self, trial)

    monkeypatch.setattr(ModelEvaluator, "_value", stop_at_the_fourth)
    code, document = tfmix(*argv)
    assert (code, document["error"]) == (130, f"stopped; the same command goes on from {stopped}")
    assert not (stopped / "policy.json").exists()
    code, document = tfmix(*argv)
    assert (code, document["search"]["trials"]) == (0, 6)
    assert len(asked) == 6 + 1, "only the one that was stopped is measured again"
    trials = [json.loads(line) for line in Directory(stopped).journal.read_text().splitlines()[1:]]
    assert document["search"]["score"] == max(trial["value"] for trial in trials)


def test_stopped_before_the_training_it_goes_on(files, out, train, tfmix):
    """To the same weights as a run that was not."""
    copy = files / "copy"
    shutil.copytree(out, copy)
    directory = Directory(copy)
    shutil.rmtree(directory.finetune)
    state = directory.read()
    directory.advance("searched", scores=None, training=None)
    assert tfmix(*train, "--out", copy)[0] == 0
    assert directory.read()["scores"] == state["scores"]
    x, _ = searchable.data()
    outputs = [
        tf_keras.models.load_model(Directory(p).model, compile=False).predict(x[:16], verbose=0)
        for p in (out, copy)
    ]
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_a_policy_of_your_own(files, out, tfmix):
    data = files / "inputs.npz"
    argv = ["quantize", files / "model.keras", "--calibration", data, "--out", files / "own"]
    policy = out / "policy.json"
    code, document = tfmix(*argv, "--policy", policy, "--post-training", "ranges")
    assert (code, document["search"], document["scores"]) == (0, None, None)
    assert Directory(files / "own").policy() == Directory(out).policy()
    code, document = tfmix(*argv, "--policy", policy, "--restart", "--budget", "ram=1kB")
    assert (code, document["kind"]) == (1, "BudgetError")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--validation", "{data}", "--budget", "flash=100"], 1, "no policy holds 100 B of FLASH"),
        ([], 2, "quantize needs --calibration or --validation"),
        (["--validation", "{data}", "--epochs", "2"], 2, "--epochs needs --train"),
        (["--validation", "{data}", "--epochs", "-1"], 2, "--epochs -1 is negative"),
        (["--validation", "{data}", "--pin", "conv=8"], 2, "--pin 'conv=8' is not weights:"),
        (["--validation", "{data}", "--pin", "weights:no=8"], 2, "no ['no'] in the network"),
        (["--validation", "{data}", "--search-option", "x"], 2, "'x' is not NAME=VALUE"),
        (["--validation", "nothing.npz"], 2, "nothing.npz: cannot be read"),
    ],
)
def test_wrong_use(files, tmp_path, tfmix, argv, code, message):
    argv = [a.format(data=files / "data.npz") for a in argv]
    found, document = tfmix("quantize", files / "model.keras", "--out", tmp_path / "o", *argv)
    assert found == code
    assert message in document["error"]


def test_no_model(tmp_path, capsys):
    argv = ["quantize", "no.keras", "--out", str(tmp_path / "o"), "--validation", "x.npz"]
    assert main(argv) == 2
    assert capsys.readouterr().err == "tfmix: no.keras: no such file or directory\n"
