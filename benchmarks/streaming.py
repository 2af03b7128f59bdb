"""Chains of layers against the same layers one by one, on a Cortex-M7, as QEMU counts instructions.

The papers' networks with all activations at 8 bits and weights by the integer program to 2 MB, code
included; values and sensitivities are random: instructions do not depend on them. First layer by
layer, in an arena of up to 1.5 MB; then, for each RAM, with the chains that the planner chooses.
Every output, on this machine and on the board, must be that of the layers one by one; the products
that chains compute are counted and must be as many; FLASH and arena must fit linker regions of
exactly the sizes. --tflm runs the files in TensorFlow Lite Micro on the board too (docs/tflm.md),
whose arena in use must be within the RAM.

    .venv/bin/python benchmarks/streaming.py [--networks "V1 1.0"] [--ram 524288 262144] [--tflm]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import tfmix
from tfmix.budget import Budget
from tfmix.export.flatbuffer import serialize
from tfmix.export.memory import memory_model
from tfmix.integer.convert import skeleton
from tfmix.integer.inference import IntegerModel
from tfmix.integer.model import IntegerNetwork, IntegerNode
from tfmix.ir.graph import FIXED_BITS, Graph
from tfmix.ir.quant import max_level
from tfmix.policy.cost.memory import StreamingMemory
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.optimum import minimise

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from counted_products import counted_products  # noqa: E402
from fake_network import random_table  # noqa: E402
from network_on_target import (  # noqa: E402
    CODE_SIZE,
    build_firmware,
    compile_kernels,
    macs,
    node_macs,
    run_firmware,
)
from streaming_plans import networks  # noqa: E402
from target import M7, TOOLS, ToolMissing, command, require  # noqa: E402
from tflm_cases import ModelCase  # noqa: E402
from tflm_programs import Program, TflmMissing, board_program  # noqa: E402

RESULTS = Path(__file__).with_name("streaming.json")
#: Of weights and parameters: 2 MB without the region of the code.
FLASH = (2 << 20) - CODE_SIZE
RAMS = (512 << 10, 256 << 10, 128 << 10)


@dataclass(frozen=True)
class Result:
    """One way to run a network. ram: the region its arena is linked to; chains: first and last
    layer, and the rows of a call; model: bytes of weights and parameters; ratio: of the
    instructions to those of layer by layer; tflm: arena in use there."""

    network: str
    ram: int | None
    chains: tuple[tuple[str, str, int], ...]
    model: int
    arena: int
    instructions: int
    macs: int
    ratio: float
    tflm: int | None


def random_network(graph: Graph, policy: QuantizationPolicy) -> IntegerNetwork:
    """The graph with random weights, whose outputs are spread over their range."""
    rng = np.random.default_rng(0)
    network = skeleton(graph, policy, per_channel=True)
    nodes = tuple(
        node if node.weights is None else replace(node, weights=_random_weights(node, rng))
        for node in network.nodes
    )
    return replace(network, nodes=nodes)


def _random_weights(node: IntegerNode, rng: np.random.Generator):
    w = node.weights
    products = w.values.size // len(w.bias)
    spread = np.sqrt(products) * max_level(FIXED_BITS) * max_level(w.bits) / 6
    factor = round(2**32 * 60 / spread)
    return replace(
        w,
        values=rng.integers(0, max_level(w.bits) + 1, w.values.shape, np.uint8),
        zero_point=np.full_like(w.zero_point, (max_level(w.bits) + 1) // 2),
        multiplier=np.full_like(w.multiplier, factor),
    )


def policy_of(graph: Graph) -> QuantizationPolicy:
    """Weights by the integer program to FLASH, for random sensitivities; activations at 8 bits."""
    pinned = {"activations": dict.fromkeys(graph.quantized_tensors, FIXED_BITS)}
    budget = Budget(FLASH, streaming="off")
    memory = memory_model(graph, "per_channel", budget.accounting)
    problem = SearchProblem(memory, budget, Pinned.parse(graph, pinned))
    return minimise(problem, random_table(graph))[0]


def measure(
    name: str,
    graph: Graph,
    rams: list[int],
    directory: Path,
    kernels: list[Path],
    tflm: Program | None,
) -> Iterator[Result]:
    policy = policy_of(graph)
    network = random_network(graph, policy)
    q = np.random.default_rng(1).integers(0, 256, (1, *network.input_shape), np.uint8)
    expected = IntegerModel(network).run(q)
    alone = None
    for ram in (None, *rams):
        if ram is None:
            model = network
        else:
            memory = StreamingMemory(graph, lambda _, plan: 0, ram)
            if memory.ram_bytes(policy) > ram:
                continue  # the interpreter included; docs/streaming.md has what they need
            plan = memory.at(policy.activation_bits).plan
            model = replace(network, chains=plan.chains, bands=plan.bands)
        in_tflm = None
        if model.chains:
            with counted_products() as products:
                if not np.array_equal(IntegerModel(model).run(q), expected):
                    raise SystemExit(f"{name}, {ram} B: this machine computes something else")
            in_chains = {layer for chain in model.chains for layer in chain}
            wanted = sum(node_macs(node) for node in model.nodes if node.name in in_chains)
            if products.count != wanted:
                raise SystemExit(f"{name}, {ram} B: {products.count} products, not {wanted}")
            in_tflm = tflm and arena_in_tflm(tflm, model, q, expected)
            if in_tflm is not None and in_tflm > ram:
                raise SystemExit(f"{name}: arena of {in_tflm} B in TFLM, {ram} B allowed")
        place = directory / f"{name}-{ram}".replace(" ", "_")
        firmware = build_firmware(
            IntegerModel(model), kernels, M7, place, Budget(FLASH, ram or 2 << 20)
        )
        outcome = run_firmware(firmware, q)
        if not np.array_equal(outcome.outputs, expected):
            raise SystemExit(f"{name}, {ram} B: the board computes something else")
        instructions = int(outcome.instructions[0])
        alone = alone or instructions
        yield Result(
            network=name,
            ram=ram,
            chains=tuple(
                (c[0], c[-1], max(model.bands.get(n, 1) for n in c)) for c in model.chains
            ),
            model=firmware.model,
            arena=firmware.arena,
            instructions=instructions,
            macs=macs(network),
            ratio=round(instructions / alone, 4),
            tflm=in_tflm,
        )


def arena_in_tflm(
    program: Program, model: IntegerNetwork, q: np.ndarray, expected: np.ndarray
) -> int:
    """Bytes in use, once the output has been found equal."""
    case = ModelCase("network", serialize(model), ((q.tobytes(), expected.tobytes()),))
    verdict = program([case])["network"]
    if verdict.result != "ok":
        raise SystemExit(f"TFLM: {verdict.result}\n{verdict.log}")
    return verdict.arena


def show(result: Result) -> None:
    ram = "layer by layer" if result.ram is None else f"in {result.ram:,} B"
    print(f"{result.network} {ram:16} arena {result.arena:9,}", end="")
    print(
        f"  {result.instructions:13,} instructions, {result.instructions / result.macs:.3f} a MAC",
        end="",
    )
    print(f"  x {result.ratio:.4f}", end="")
    print("" if result.tflm is None else f"  in TFLM {result.tflm:,} B")
    for first, last, band in result.chains:
        print(f"    {first}..{last}, {band} rows a call")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="", help="part of their names")
    parser.add_argument("--ram", nargs="*", type=int, default=list(RAMS), help="bytes")
    parser.add_argument("--tflm", action="store_true")
    options = parser.parse_args()
    try:
        require(*TOOLS)
    except ToolMissing as missing:
        raise SystemExit(f"{missing}: nothing can be measured") from None
    start, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        kernels = compile_kernels(M7, directory)
        try:
            tflm = board_program(directory / "tflm") if options.tflm else None
        except TflmMissing as missing:
            raise SystemExit(f"{missing}: see docs/tflm.md") from None
        for name, graph in networks():
            if options.networks in name:
                for result in measure(name, graph, options.ram, directory, kernels, tflm):
                    show(result)
                    results.append(result)
    print(f"{time.monotonic() - start:.0f} s")
    if options.networks or options.ram != list(RAMS):
        return
    report = {
        "machine": f"QEMU {M7.machine} ({M7.cpu}), executed instructions, not cycles",
        "compiler": command("arm-none-eabi-gcc", "--version").splitlines()[0],
        "version": tfmix.__version__,
        "results": [asdict(result) for result in results],
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {RESULTS.name}")


if __name__ == "__main__":
    main()
