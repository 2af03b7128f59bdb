"""`write_report`: a page about a quantized model, and the same facts for machines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tf_keras

from tfmix.budget import Budget
from tfmix.errors import TfmixError
from tfmix.export.files import write_all
from tfmix.policy.sensitivity import SensitivityTable
from tfmix.report.facts import gather
from tfmix.report.page import page


def write_report(
    model: tf_keras.Model,
    path: str | os.PathLike[str] = "report.html",
    *,
    data: Any = None,
    reference: tf_keras.Model | None = None,
    budget: Budget | None = None,
    table: SensitivityTable | None = None,
    pinned: Mapping[str, Mapping[str, int]] | None = None,
    clock_hz: float = 216e6,
) -> tuple[Path, Path]:
    """Writes an HTML page about a fake-quant model at the bits now set, and beside it a .json file
    with the same facts: both, or none. docs/report.md says what is in them.

    Args:
      model: a fake-quant model.
      path: of the page, which is one file and needs no network; it ends in .html.
      data: (inputs, labels) for accuracies of the float, fake-quant and integer network; inputs
        alone for how often they agree. Either gives errors layer by layer.
      reference: the float model, for its accuracy.
      budget: to compare FLASH and RAM with; None takes the one that quantize_model was given.
      table: sensitivities, as a SearchResult has them; with a budget the report says what one more
        kilobyte of it would gain.
      pinned: bits that may not change then, as in quantize_model.
      clock_hz: turns instructions into milliseconds, one a cycle. Both are modelled, not measured.

    Returns the paths of the page and of the .json file.

    Raises CalibrationError where ranges are not known, TfmixError for data or a table of another
    network, and for a file that cannot be written.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise TfmixError(f"report {path}: the name of the page ends in .html")
    facts = gather(
        model,
        data=data,
        reference=reference,
        budget=budget,
        table=table,
        pinned=pinned,
        clock_hz=clock_hz,
    )
    contents = {path.name: page(facts), path.with_suffix(".json").name: json.dumps(facts, indent=1)}
    written = write_all(path.parent, {name: text.encode() for name, text in contents.items()})
    return written[0], written[1]
