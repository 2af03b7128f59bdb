"""Writes a page about a quantized model, report.html, and the same facts as report.json."""

from __future__ import annotations

import argparse

from tfmix.cli.common import Outcome, add_budget
from tfmix.cli.data import add_data
from tfmix.errors import TfmixError

HELP = "write a page about a quantized model: HTML and JSON"


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
    parser.add_argument("--table", metavar="FILE", help="sensitivities, where MODEL is a model")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples only")
    add_budget(parser)
    add_data(parser, data="labelled, for accuracies; inputs alone for errors layer by layer")


def run(arguments: argparse.Namespace) -> Outcome:
    raise TfmixError("tfmix report is not there yet")
