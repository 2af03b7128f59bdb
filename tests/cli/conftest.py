"""A small trained network in a file, data beside it, and one run of `tfmix quantize`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import searchable

from tfmix.cli.main import main


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with model.keras, data.npz (x, y) and inputs.npz (x)."""
    folder = tmp_path_factory.mktemp("cli")
    searchable.trained().save(folder / "model.keras")
    x, y = searchable.data()
    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "inputs.npz", x=x)
    return folder


@pytest.fixture(scope="session")
def budget() -> str:
    b = searchable.budget()
    return f"flash={b.flash},ram={b.ram}"


@pytest.fixture(scope="session")
def quantize(files, budget):
    """The arguments of a run without training, without its output directory."""
    data = str(files / "data.npz")
    return [
        *("quantize", str(files / "model.keras"), "--budget", budget, "--validation", data),
        *("--search", "ilp", "--search-option", "refine=0", "--post-training", "ranges"),
    ]


@pytest.fixture(scope="session")
def train(files, quantize):
    """The arguments of a run with training."""
    data = str(files / "data.npz")
    return [*quantize, "--train", data, "--epochs", "1", "--no-teacher"]


@pytest.fixture(scope="session")
def out(files, train) -> Path:
    """The output directory of a finished run with training."""
    assert main([*train, "--out", str(files / "out"), "--quiet"]) == 0
    return files / "out"


@pytest.fixture
def tfmix(capsys):
    """Runs a command with --json and --quiet: (exit code, document)."""

    def run(*argv: object) -> tuple[int, dict]:
        capsys.readouterr()
        code = main([*map(str, argv), "--json", "--quiet"])
        return code, json.loads(capsys.readouterr().out)

    return run
