"""Measures a model on data: the float, the fake-quant and the integer network, as far as there are.

An output directory of `tfmix quantize` gives all three, a fake-quant model the last two, a .tflite
file the last. Without labels: how often each network gives the class that the first one gives.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from tfmix.cli.common import Outcome, import_tensorflow, say
from tfmix.cli.data import add_data, read_data
from tfmix.errors import TfmixError

HELP = "accuracy of the float, the fake-quant and the integer network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="OUT_OR_MODEL", help="an output directory, a Keras model or a .tflite file"
    )
    add_data(parser, data="what to measure on")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples only")


def run(arguments: argparse.Namespace) -> Outcome:
    if arguments.data is None:
        raise TfmixError("evaluate needs --data")
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.cli.directory import load_models
    from tfmix.report.accuracy import evaluate

    models = load_models(arguments.model)
    networks = {
        "float": models.float_model,
        "fake_quant": models.qmodel,
        "integer": models.integer,
    }
    samples = samples_of(networks, arguments.data, arguments)
    if models.qmodel is not None:
        say(arguments, "convert to integers")
        networks["integer"] = tfmix.convert(models.qmodel)
    say(arguments, f"measure on {len(samples)} samples")
    scores = evaluate(networks, samples)
    return Outcome({"model": arguments.model, **asdict(scores)}, text_of(scores))


def samples_of(networks: dict[str, Any], data: str, arguments: argparse.Namespace) -> Any:
    """The samples of the data named `data`, of the shape that the networks take."""
    from tfmix.fakequant.data import read_samples

    limit = arguments.limit
    if limit is not None and limit < 1:
        raise TfmixError(f"--limit {limit} is not a positive number")
    network = next(network for network in networks.values() if network is not None)
    shape = network.input_shape
    shape = tuple(shape) if network is networks.get("integer") else tuple(shape[1:])
    samples = read_samples(read_data(data, shape, arguments, limit=limit), "data", limit=limit)
    if samples.x.shape[1:] != shape:
        raise TfmixError(f"data has inputs of shape {samples.x.shape}; the model takes {shape}")
    return samples


def text_of(scores: Any) -> str:
    """A line a network."""
    form = "{:.2%}" if scores.measure in ("accuracy", "agreement") else "{:.6g}"
    lines = [f"{scores.measure.replace('_', ' ')} on {scores.samples} samples"]
    lines += [
        f"  {name.replace('_', '-'):<11}{form.format(v)}" for name, v in scores.values.items()
    ]
    return "\n".join(lines)
