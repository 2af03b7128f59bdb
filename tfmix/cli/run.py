"""Runs a .tflite file of tfmix on data, in the same kernels that run on the device."""

from __future__ import annotations

import argparse
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfmix.cli.common import Outcome, import_tensorflow
from tfmix.cli.data import add_data
from tfmix.cli.evaluate import samples_of, text_of
from tfmix.errors import TfmixError

HELP = "run a .tflite file on data: outputs, and accuracy where there are labels"

#: Outputs shown, where there are more.
_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="MODEL.tflite", help="a file that tfmix wrote")
    add_data(parser, data="what to run on")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples only")
    parser.add_argument("--out", metavar="FILE.npz", help="write the outputs there, as array y")
    parser.add_argument(
        "--backend",
        choices=("c", "reference"),
        default="c",
        help="the C kernels (the default), or the slow NumPy reference that defines them",
    )


def run(arguments: argparse.Namespace) -> Outcome:
    if arguments.data is None:
        raise TfmixError("run needs --data")
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.fakequant.layerwise import in_batches
    from tfmix.report.accuracy import score_outputs

    model = tfmix.load(arguments.file)
    samples = samples_of({"integer": model}, arguments.data, arguments)
    outputs = in_batches(lambda x: model.predict(x, arguments.backend), [samples.x])
    document: dict[str, Any] = {"file": arguments.file, "samples": len(samples)}
    lines = _lines(outputs)
    if arguments.out:
        _write(Path(arguments.out), outputs)
        document["outputs_file"] = arguments.out
        lines.append(f"outputs {outputs.shape} written to {arguments.out}")
    else:
        document["outputs"] = outputs.tolist()
    if samples.y is not None:
        scores = score_outputs({"integer": outputs}, samples)
        document |= asdict(scores)
        lines.append(text_of(scores))
    return Outcome(document, "\n".join(lines))


def _lines(outputs: Any) -> list[str]:
    """The most likely class of the first samples, or their outputs where they are no classes."""
    lines = []
    for index, output in enumerate(outputs[:_SHOWN]):
        if output.ndim == 1 and output.size > 1:
            best = int(output.argmax())
            lines.append(f"{index:>4}  class {best}, {output[best]:.4g}")
        else:
            lines.append(f"{index:>4}  {output.reshape(-1)[:8]}")
    if len(outputs) > _SHOWN:
        lines.append(f"      ... and {len(outputs) - _SHOWN} more")
    return lines


def _write(path: Path, outputs: Any) -> None:
    import numpy as np

    from tfmix.export.files import write_all

    content = io.BytesIO()
    np.savez(content, y=outputs)
    write_all(path.parent, {path.name: content.getvalue()})
