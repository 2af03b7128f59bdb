"""Writes the integer network of a fake-quant model: .tflite, and C source where it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from tfmix.cli.common import Outcome, import_tensorflow, say
from tfmix.cli.data import add_data, read_data
from tfmix.errors import TfmixError

HELP = "write the integer network as .tflite, and as C source"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="OUT_OR_MODEL", help="an output directory or a fake-quant Keras model"
    )
    parser.add_argument(
        "--tflite", metavar="FILE", help="(model.tflite in the output directory, or beside MODEL)"
    )
    parser.add_argument(
        "--resolver", metavar="FILE", help="C++ header that registers the operators: docs/tflm.md"
    )
    parser.add_argument("--c", metavar="FOLDER", help="also as C source: docs/c-export.md")
    parser.add_argument("--name", default="model", help="of the C network, an identifier (model)")
    add_data(parser, data="inputs to compare integers and fake-quant on, layer by layer")


def run(arguments: argparse.Namespace) -> Outcome:
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.cli.directory import load_models

    models = load_models(arguments.model)
    if models.qmodel is None:
        raise TfmixError(f"{arguments.model} is not a fake-quant model: tfmix quantize makes one")
    path = Path(arguments.model)
    default = path / "model.tflite" if models.directory else path.with_suffix(".tflite")
    say(arguments, "convert to integers")
    shape = models.qmodel.input_shape[1:]
    integer = tfmix.convert(models.qmodel, read_data(arguments.data, shape, arguments))
    files = [tfmix.export(integer, arguments.tflite or default, resolver=arguments.resolver)]
    if arguments.resolver:
        files.append(Path(arguments.resolver))
    if arguments.c:
        files += tfmix.export_c(integer, arguments.c, name=arguments.name)
    document = {"files": [{"file": str(f), "bytes": f.stat().st_size} for f in files]}
    return Outcome(document, "\n".join(f"{f}: {f.stat().st_size:,} B" for f in files))
