"""`tfmix COMMAND --help`, exit codes, and what goes to which stream."""

import json
import os
import subprocess
import sys

import pytest

from tfmix.budget import DEVICES
from tfmix.cli import devices
from tfmix.cli.main import COMMANDS, main
from tfmix.errors import BudgetError, TfmixError, UnsupportedModelError

NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]


def test_help_of_every_command_imports_neither_tensorflow_nor_numpy():
    code = f"""
import sys
from tfmix.cli.main import main
for command in {[[], *([name] for name in NAMES)]!r}:
    assert main([*command, "--help"]) == 0, command
heavy = {{"tensorflow", "tf_keras", "numpy", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    before = os.times()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = os.times()
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: tfmix") == 1 + len(NAMES)
    # Processor time: whatever else the machine does.
    assert sum(after[2:4]) - sum(before[2:4]) < 0.3


def test_python_m_tfmix():
    result = subprocess.run([sys.executable, "-m", "tfmix", "--version"], capture_output=True)
    assert (result.returncode, result.stdout[:6]) == (0, b"tfmix ")


def test_no_command_and_unknown_options_are_wrong_use(capsys):
    assert main([]) == 2
    assert main(["devices", "--nonsense"]) == 2
    assert "usage: tfmix" in capsys.readouterr().err


def test_json_is_one_document_on_stdout(capsys):
    assert main(["devices", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {d["name"]: d["ram"] for d in document["devices"]} == {
        name: device.ram for name, device in DEVICES.items()
    }


def test_an_error_because_of_ctrl_c_is_a_stop(monkeypatch, capsys):
    """A search that was stopped before it had any policy."""

    def stop(arguments):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise TfmixError("stopped after 4 trials")  # noqa: B904  as the session does

    monkeypatch.setattr(devices, "run", stop)
    assert main(["devices"]) == 130
    assert capsys.readouterr().err == "tfmix: stopped after 4 trials\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TfmixError("the data is empty"), 2, "tfmix: the data is empty\n"),
        (BudgetError("too large", tensor="conv", smallest=9), 1, "tfmix: too large\n"),
        (UnsupportedModelError(["an LSTM"]), 1, "an LSTM\n"),
        (KeyboardInterrupt(), 130, "tfmix: stopped\n"),
        (
            KeyError("name"),
            3,
            "tfmix: internal error: KeyError: 'name' (--debug shows where)\n",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_one_message_and_an_exit_code(monkeypatch, capsys, error, code, message):
    def fail(arguments):
        print("what the library prints")
        raise error

    monkeypatch.setattr(devices, "run", fail)
    assert main(["devices"]) == code
    found = capsys.readouterr()
    assert (found.out, found.err.startswith("what the library prints\n")) == ("", True)
    assert found.err.endswith(message)
    assert "Traceback" not in found.err

    assert main(["devices", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["exit_code"]) == (type(error).__name__, code)

    assert main(["devices", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err
