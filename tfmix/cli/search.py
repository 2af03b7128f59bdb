"""Searches for the bits that fit a budget, and writes them as policy.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tfmix.cli.common import (
    Outcome,
    add_budget,
    budget_document,
    budget_of,
    import_tensorflow,
    say,
    verbosity,
)
from tfmix.cli.data import add_data, read_data
from tfmix.cli.directory import write_text
from tfmix.errors import TfmixError

HELP = "search for the bits that fit a budget, without making a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a float or fake-quant model: .keras, .h5, SavedModel"
    )
    parser.add_argument("--out", metavar="FILE", default="policy.json", help="(policy.json)")
    parser.add_argument(
        "--table", metavar="FILE", help="write the sensitivities there, where there are any"
    )
    parser.add_argument(
        "--journal", metavar="FILE", help="keeps what is measured; the same search goes on from it"
    )
    add_budget(parser)
    add_search(parser)
    add_data(
        parser,
        validation="what policies are measured on",
        calibration="typical inputs; they stand in for --validation, without labels",
        train="for methods that train in each trial",
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Options of commands that search."""
    group = parser.add_argument_group("bits")
    group.add_argument(
        "--search",
        metavar="METHOD",
        default="auto",
        help="auto, ilp, evolutionary, rl, random, memory, uniform (auto): docs/search.md",
    )
    group.add_argument(
        "--search-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="of the method, for instance refine=0; VALUE is JSON, or text",
    )
    group.add_argument(
        "--pin",
        metavar="KIND:NAME=BITS",
        action="append",
        default=[],
        help="bits the search may not change, for instance weights:conv1=8 or activations:add=4",
    )
    group.add_argument("--weights", choices=("per_channel", "per_layer"), default="per_channel")
    group.add_argument("--batch-norm", choices=("icn", "fold"), default="icn")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of every random choice")


def run(arguments: argparse.Namespace) -> Outcome:
    budget, options, pinned = budget_of(arguments), options_of(arguments), pinned_of(arguments)
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.cli.directory import load_models
    from tfmix.ir.graph import as_graph

    models = load_models(arguments.model)
    model = models.float_model if models.qmodel is None else models.qmodel
    if model is None:
        raise TfmixError(f"{arguments.model}: a .tflite file has its bits; a Keras model is needed")
    graph = as_graph(model)
    shape = graph.tensors[graph.input].shape
    say(arguments, f"search for the bits of {arguments.model}")
    result = tfmix.search_policy(
        model,
        budget,
        arguments.search,
        validation_data=read_data(arguments.validation, shape, arguments),
        calibration_data=read_data(arguments.calibration, shape, arguments),
        train_data=read_data(arguments.train, shape, arguments),
        journal=arguments.journal,
        pinned=pinned,
        weights=arguments.weights,
        batch_norm=arguments.batch_norm,
        seed=arguments.seed,
        verbose=verbosity(arguments),
        **options,
    )
    write_text(Path(arguments.out), result.policy.to_json() + "\n")
    if arguments.table and result.table is not None:
        write_text(Path(arguments.table), result.table.to_json() + "\n")
    document = {**search_document(result), "policy_file": arguments.out}
    text = f"{result}\nwritten to {arguments.out}"
    return Outcome(document, text, 130 if result.interrupted else 0)


def search_document(result: Any) -> dict[str, Any]:
    """A SearchResult as a JSON object."""
    return {
        "method": result.method,
        "seed": result.seed,
        "measure": result.measure,
        "score": result.score,
        "flash_bytes": result.flash_bytes,
        "ram_bytes": result.ram_bytes,
        "budget": budget_document(result.budget),
        "trials": len(result.evaluations),
        "interrupted": result.interrupted,
        # Nothing is better by more than the gap, as far as the method's own table knows.
        "gap": getattr(result.proof, "gap", None),
        "policy": json.loads(result.policy.to_json()),
    }


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """--search-option, by name."""
    options: dict[str, Any] = {}
    for text in arguments.search_option:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise TfmixError(f"--search-option {text!r} is not NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def pinned_of(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """--pin, as quantize_model takes it."""
    pinned: dict[str, dict[str, int]] = {}
    for text in arguments.pin:
        kind, colon, rest = text.partition(":")
        name, equals, bits = rest.rpartition("=")
        if kind not in ("weights", "activations") or not (colon and equals and bits.isdecimal()):
            raise TfmixError(f"--pin {text!r} is not weights:NAME=BITS or activations:NAME=BITS")
        pinned.setdefault(kind, {})[name] = int(bits)
    return pinned
