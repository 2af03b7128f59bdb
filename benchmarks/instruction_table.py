"""Fits tfmix/policy/cost/instructions.json, instructions of each kind of work, to kernels.json.

    .venv/bin/python benchmarks/instruction_table.py

To be run after `make bench-kernels`. No figure below zero, and least squares of relative errors:
every layer counts alike, small or large. Prints how far the fit is from what it was fitted to;
tests/policy/cost/test_instructions.py says how far it is from whole networks, which it never sees.
"""

from __future__ import annotations

import json

import numpy as np
from scipy.optimize import nnls

from kernels import LAYERS, RESULTS, Layer
from tfmix.integer.abi import parse_variant
from tfmix.policy.cost.instructions import TABLE, Call, amounts


def call_of(layer: Layer, variant: str) -> Call:
    v, s = parse_variant(variant), layer.shape
    inputs = [bits for bits in (v.a, v.b) if bits is not None]
    rows, columns = s.output if s.kernel else s.plane
    second = [(1, 1, s.channels) if s.same is False else (*s.plane, s.channels)] * (v.b is not None)
    if layer.kernel.value == "fully_connected":
        rows = columns = 1
    return Call(
        layer.kernel.value,
        ((*s.plane, s.channels), *second),
        (rows, columns, s.output_channels or s.channels),
        tuple(inputs),
        v.output_bits or v.a,
        v.weight_bits,
        s.kernel or (1, 1),
        s.strides,
    )


def main() -> None:
    report = json.loads(RESULTS.read_text())
    layers = {layer.name: layer for layer in LAYERS}
    rows, measured, names = [], [], []
    for row in report["kernels"]:
        work = amounts(call_of(layers[row["layer"]], row["variant"]))
        if work is not None:
            rows.append(work)
            measured.append(row["instructions"])
            names.append(f"{row['layer']} {row['variant']}")
    kinds = list(dict.fromkeys(kind for work in rows for kind in work))
    counts = np.array([[work.get(kind, 0.0) for kind in kinds] for work in rows])
    measured = np.array(measured, float)
    found, _ = nnls(counts / measured[:, None], np.ones(len(rows)))
    error = counts @ found / measured - 1
    for i in np.argsort(-np.abs(error))[:10]:
        print(f"{error[i]:+7.1%}  {names[i]}")
    print(
        f"{len(rows)} measured calls, {len(kinds)} kinds of work: off by {np.abs(error).mean():.1%}"
    )
    document = {
        "machine": report["machine"],
        "compiler": report["compiler"],
        "fitted_by": "benchmarks/instruction_table.py",
        "instructions": {kind: float(f"{v:.4g}") for kind, v in zip(kinds, found, strict=True)},
    }
    TABLE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
