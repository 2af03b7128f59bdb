"""Writes a page about a quantized model, report.html, and the same facts as report.json."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from tfmix.cli.common import Outcome, add_budget, budget_of, import_tensorflow, say
from tfmix.cli.data import add_data
from tfmix.cli.evaluate import samples_of
from tfmix.errors import FormatError, TfmixError

HELP = "write a page about a quantized model: HTML and JSON"

_UNITS = {"Hz": 1, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="OUT_OR_MODEL", help="an output directory or a fake-quant Keras model"
    )
    parser.add_argument(
        "--out", metavar="FILE.html", help="(report.html in the output directory, or beside MODEL)"
    )
    parser.add_argument(
        "--clock", metavar="FREQUENCY", default="216MHz", help="for milliseconds (216MHz)"
    )
    parser.add_argument(
        "--table", metavar="FILE", help="sensitivities (those in the output directory)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples only")
    add_budget(parser)
    add_data(parser, data="labelled, for accuracies; inputs alone for errors layer by layer")


def run(arguments: argparse.Namespace) -> Outcome:
    budget, clock_hz = budget_of(arguments), _frequency(arguments.clock)
    import_tensorflow(arguments.debug)
    from tfmix.cli.directory import load_models
    from tfmix.policy.sensitivity import SensitivityTable
    from tfmix.report.write import write_report

    models = load_models(arguments.model)
    if models.qmodel is None:
        raise TfmixError(f"{arguments.model} is not a fake-quant model: tfmix quantize makes one")
    directory, table, pinned = models.directory, None, None
    if directory is not None:
        budget = budget or directory.budget()
        table, pinned = directory.table(), directory.read()["settings"]["pinned"]
    if arguments.table:
        try:
            table = SensitivityTable.from_json(Path(arguments.table).read_text())
        except OSError as error:
            raise FormatError(f"{arguments.table}: {error.strerror}") from error
    path = Path(arguments.model)
    default = path / "report.html" if directory is not None else path.with_suffix(".html")
    data = None
    if arguments.data is not None:
        data = samples_of({"fake_quant": models.qmodel}, arguments.data, arguments)
    say(arguments, "gather facts")
    page, facts = write_report(
        models.qmodel,
        arguments.out or default,
        data=data,
        reference=models.float_model,
        budget=budget,
        table=table,
        pinned=pinned,
        clock_hz=clock_hz,
    )
    return Outcome(json.loads(facts.read_text()), f"{page}\n{facts}")


def _frequency(text: str) -> float:
    """Hz."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?Hz)", text.strip())
    if match is None or not float(match[1]):
        raise TfmixError(f"--clock {text!r} is not a frequency; write for instance 480MHz")
    return float(match[1]) * _UNITS[match[2]]
