"""Lists what a .tflite file of tfmix holds: operators, tensors, bits, bytes, arena."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tfmix.cli.common import Outcome, import_tensorflow, table

HELP = "operators, tensors, bits and bytes of a .tflite file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="MODEL.tflite", help="a file that tfmix wrote")


def run(arguments: argparse.Namespace) -> Outcome:
    import_tensorflow(arguments.debug)
    import tfmix
    from tfmix.integer.lower import lower
    from tfmix.integer.schedule import schedule_of
    from tfmix.ir.schedule import chain_name
    from tfmix.policy.cost.arena import plan

    model = tfmix.load(arguments.file)
    network = model.network
    schedule = schedule_of(network)
    arena = plan(schedule)
    size = Path(arguments.file).stat().st_size
    scratch = {step.name: step.scratch for step in schedule.steps}
    operators: list[dict[str, Any]] = []
    tensors: list[dict[str, Any]] = []
    for node in network.nodes:
        call = lower(node, network.tensors)
        operators.append(
            {
                "name": node.name,
                "variant": call.variant,
                "inputs": list(node.inputs),
                "output": node.output,
                "output_shape": list(node.output_shape),
                "weight_bits": node.weights.bits if node.weights else None,
                "constant_bytes": len(call.constants),
                "scratch_bytes": scratch.get(node.name),
            }
        )
    for name, tensor in network.tensors.items():
        tensors.append(
            {
                "name": name,
                "shape": list(tensor.shape),
                "bits": tensor.quant.bits,
                "scale": float(tensor.quant.scale),
                "zero_point": int(tensor.quant.zero_point),
                "bytes": schedule.buffers.get(name),
                "arena_offset": arena.offsets.get(name),
            }
        )
    document = {
        "file": arguments.file,
        "file_bytes": size,
        "constant_bytes": sum(o["constant_bytes"] for o in operators),
        "arena_bytes": arena.total,
        "input_shape": list(model.input_shape),
        "output_shape": list(model.output_shape),
        "operators": operators,
        "tensors": tensors,
        # Layers that run together, row by row: between them only some rows are in memory.
        "chains": [
            {"operators": list(chain), "scratch_bytes": scratch[chain_name(chain)]}
            for chain in network.chains
        ],
    }
    return Outcome(document, _text(document))


def _text(document: dict) -> str:
    operators = [("operator", "variant", "output", "weights", "constants B", "scratch B")]
    operators += [
        (
            o["name"],
            o["variant"],
            "x".join(map(str, o["output_shape"])),
            "" if o["weight_bits"] is None else f"{o['weight_bits']} bits",
            f"{o['constant_bytes']:,}",
            _or_rows(o["scratch_bytes"]),
        )
        for o in document["operators"]
    ]
    tensors = [("tensor", "shape", "bits", "scale", "zero point", "bytes", "at")]
    tensors += [
        (
            t["name"],
            "x".join(map(str, t["shape"])),
            str(t["bits"]),
            f"{t['scale']:.6g}",
            str(t["zero_point"]),
            _or_rows(t["bytes"]),
            _or_rows(t["arena_offset"]),
        )
        for t in document["tensors"]
    ]
    return "\n".join(
        [
            f"{document['file']}: {document['file_bytes']:,} B, of which constants "
            f"{document['constant_bytes']:,} B; arena {document['arena_bytes']:,} B",
            "",
            table(operators, right=(4, 5)),
            "",
            table(tensors, right=(2, 3, 4, 5, 6)),
            *([""] if document["chains"] else []),
            *(
                f"row by row, in {chain['scratch_bytes']:,} B of scratch: "
                + ", ".join(chain["operators"])
                for chain in document["chains"]
            ),
        ]
    )


def _or_rows(size: int | None) -> str:
    """Within a chain a layer has no scratch, and a tensor no place, of its own."""
    return "rows" if size is None else f"{size:,}"
