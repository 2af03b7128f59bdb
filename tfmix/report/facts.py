"""All that is known of a quantized model, as one JSON object: what the page of the report shows.

Every part that needs something which is not there is None: accuracies and errors without data,
sensitivities without a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import tf_keras

from tfmix.budget import KILOBYTE, Budget
from tfmix.errors import BudgetError, TfmixError
from tfmix.fakequant.apply import budget_of, get_policy, require_quantized
from tfmix.fakequant.data import read_samples
from tfmix.fakequant.layerwise import Layerwise, LiveTensors, in_batches
from tfmix.integer.compare import compare
from tfmix.integer.convert import convert_network
from tfmix.integer.inference import IntegerModel
from tfmix.ir.graph import FIXED_BITS, Graph
from tfmix.ir.quant import BIT_WIDTHS, packed_size
from tfmix.policy.cost.instructions import network_instructions
from tfmix.policy.cost.memory import MemoryModel, memory_report
from tfmix.policy.cost.streaming import ChainPlan, added_instructions
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import SearchProblem
from tfmix.policy.search.optimum import bits_of, cuttable, minimise
from tfmix.policy.sensitivity import SensitivityTable
from tfmix.report.accuracy import evaluate
from tfmix.search.problem import chains_of, pose
from tfmix.version import __version__

FORMAT = "tfmix.report"
VERSION = 1

#: Samples the errors of layers are measured on.
ERROR_SAMPLES = 64


def gather(
    model: tf_keras.Model,
    *,
    data: Any = None,
    reference: tf_keras.Model | None = None,
    budget: Budget | None = None,
    table: SensitivityTable | None = None,
    pinned: Mapping[str, Mapping[str, int]] | None = None,
    clock_hz: float = 216e6,
) -> dict[str, Any]:
    """The facts about a fake-quant model; arguments and errors as `write_report`."""
    if not (isinstance(clock_hz, (int, float)) and clock_hz > 0):
        raise TfmixError(f"clock_hz {clock_hz!r} is not a positive frequency in Hz")
    require_quantized(model)
    budget = budget or budget_of(model)
    if budget is not None and budget.flash is None and budget.ram is None:
        budget = None
    problem = pose(model, budget, pinned)
    graph, policy = problem.graph, get_policy(model)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "tfmix": __version__,
        "name": model.name if reference is None else reference.name,
        "budget": None if budget is None else asdict(budget),
        **_memory(problem.memory, policy, budget),
        "tensors": _tensors(graph, policy),
        "instructions": _instructions(graph, policy, chains_of(model, budget), clock_hz),
        "scores": None,
        "errors": None,
        "sensitivity": None,
        "one_more_kilobyte": None,
    }
    if data is not None:
        samples = read_samples(data, "data", graph)
        integer = IntegerModel(convert_network(model))
        networks = {"float": reference, "fake_quant": model, "integer": integer}
        facts["scores"] = asdict(evaluate(networks, samples))
        facts["errors"] = _errors(model, integer, samples.x[:ERROR_SAMPLES].astype(np.float32))
    if table is not None:
        table.validate(graph)
        facts["sensitivity"] = {
            "source": table.source,
            "weights": _with_text_keys(table.weights),
            "activations": _with_text_keys(table.activations),
        }
        facts["one_more_kilobyte"] = _one_more_kilobyte(problem, table, policy)
    return facts


# -- memory -------------------------------------------------------------------------------------


def _memory(
    memory: MemoryModel, policy: QuantizationPolicy, budget: Budget | None
) -> dict[str, Any]:
    report = memory_report(memory, policy, budget)
    bits = policy.activation_bits
    memory = memory.at(bits)
    steps = []
    for step, line in zip(memory.steps, report.steps, strict=True):
        roles = [*((b, "input") for b in step.inputs), (step.output, "output")]
        roles += [(buffer, "held") for buffer in step.held]
        steps.append(
            {
                **asdict(line),
                "alive": [
                    {"tensor": name, "role": role, "bytes": memory.buffer_bytes(name, bits)}
                    for name, role in roles
                ],
            }
        )
    return {
        "memory": {
            "flash_bytes": report.flash_bytes,
            "ram_bytes": report.ram_bytes,
            "weight_bytes": report.weight_bytes,
            "activation_bytes": report.activation_bytes,
            "interpreter_bytes": report.interpreter_bytes,
            "flash_limit": budget and budget.flash,
            "ram_limit": budget and budget.ram,
            "fits": report.fits,
            "peak_step": report.peak_step and report.peak_step.name,
        },
        "steps": steps,
    }


def _tensors(graph: Graph, policy: QuantizationPolicy) -> dict[str, list[dict[str, Any]]]:
    weights = [(n.name, graph.kernel_shape(n)) for n in graph.weighted_nodes]
    activations = [(t, graph.tensors[t].shape) for t in graph.quantized_tensors]
    return {
        kind: [
            {
                "name": name,
                "shape": list(shape),
                "bits": bits[name],
                "bytes": packed_size(math.prod(shape), bits[name]),
                "bytes_at_8_bits": math.prod(shape),
                "fixed": kind == "activations" and name in graph.fixed_tensors,
            }
            for name, shape in tensors
        ]
        for kind, tensors, bits in (
            ("weights", weights, policy.weight_bits),
            ("activations", activations, policy.activation_bits),
        )
    }


# -- instructions -------------------------------------------------------------------------------


def _instructions(
    graph: Graph, policy: QuantizationPolicy, plan: ChainPlan, clock_hz: float
) -> dict[str, Any]:
    """Of the model that tfmix.policy.cost.instructions is, not measured.

    layers: as if each ran whole; row_by_row: what chains of layers add, part of the total
    """
    found = network_instructions(graph, policy)
    at_8_bits = network_instructions(graph, QuantizationPolicy.uniform(graph, FIXED_BITS))
    known = [count for count in found.values() if count is not None]
    row_by_row = round(added_instructions(graph, policy.activation_bits, plan))
    total = sum(known) + row_by_row
    return {
        "source": "a model fitted to kernels on a Cortex-M7, not measured",
        "total": total,
        "row_by_row": row_by_row,
        "total_at_8_bits": sum(count or 0 for count in at_8_bits.values()),
        "unknown": [name for name, count in found.items() if count is None],
        "macs": sum(graph.macs(node) for node in graph.nodes),
        "clock_hz": clock_hz,
        "milliseconds": 1e3 * total / clock_hz,
        "layers": found,
    }


# -- errors -------------------------------------------------------------------------------------


def _errors(model: tf_keras.Model, integer: IntegerModel, x: np.ndarray) -> list[dict[str, Any]]:
    """Of each node: how far its output is from that of the same weights in float.

    own_db: on the float network's inputs of that node; total_db: on those the quantized network
    has, which hold the errors of all nodes before. Both are signal to noise in decibels, None where
    there is no noise. And how far the integers are from fake-quant, see `compare`.
    """
    quantized, plain = Layerwise(model), Layerwise(model, quantized=False)
    graph = quantized.graph
    differences = {found.node: found for found in compare(model, integer, x)}
    floats = LiveTensors(graph, x)
    fakes = LiveTensors(graph, in_batches(partial(quantized.quantize, graph.input), [x]))
    errors = []
    for node in graph.nodes:
        inputs = floats.inputs_of(node)
        wanted = in_batches(partial(plain.run, node), inputs)
        own = in_batches(partial(quantized.run, node), inputs)
        total = in_batches(partial(quantized.run, node), fakes.inputs_of(node))
        floats.put(node.output, wanted)
        fakes.put(node.output, total)
        found = differences.get(node.name)
        if found is not None:
            errors.append(
                {
                    "node": node.name,
                    "own_db": _decibels(wanted, own),
                    "total_db": _decibels(wanted, total),
                    "integer_max_lsb": found.max_lsb,
                    "integer_fraction": found.fraction_different,
                    "reason": found.reason,
                }
            )
    return errors


def _decibels(wanted: np.ndarray, found: np.ndarray) -> float | None:
    signal = float(np.square(wanted, dtype=np.float64).sum())
    noise = float(np.square(wanted - found, dtype=np.float64).sum())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


# -- sensitivities ------------------------------------------------------------------------------


def _with_text_keys(rows: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {str(bits): float(row.get(bits, 0.0)) for bits in BIT_WIDTHS}
        for name, row in rows.items()
    }


def _one_more_kilobyte(
    problem: SearchProblem, table: SensitivityTable, policy: QuantizationPolicy
) -> dict[str, Any] | None:
    """What the optimum for the table gains by 1,024 B more of FLASH or of RAM; None without a
    budget, or where nothing holds it. In nats a sample, as the table."""
    budget = problem.budget
    if budget.flash is None and budget.ram is None:
        return None
    try:
        best, proof = minimise(problem, table)
    except BudgetError:
        return None
    facts: dict[str, Any] = {
        "policy": _summed(problem, table, policy),
        "optimum": proof.objective,
        "is_optimum": best == policy,
    }
    for what in ("flash", "ram"):
        limit = getattr(budget, what)
        if limit is None:
            continue
        wider = problem.within(replace(budget, **{what: limit + KILOBYTE}))
        found, proof = minimise(wider, table)
        facts[what] = {
            "loss": proof.objective,
            "gain": max(facts["optimum"] - proof.objective, 0.0),
            "changes": [
                {"kind": kind, "name": name, "from": before, "to": after}
                for kind, name in cuttable(problem)
                if (before := bits_of(best, (kind, name)))
                != (after := bits_of(found, (kind, name)))
            ],
        }
    return facts


def _summed(problem: SearchProblem, table: SensitivityTable, policy: QuantizationPolicy) -> float:
    rows = table.monotone()
    return math.fsum(
        getattr(rows, kind)[name][bits_of(policy, (kind, name))]
        for kind, name in cuttable(problem)
        if name in getattr(rows, kind)
    )
