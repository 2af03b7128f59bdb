"""Chains of layers against the same layers one by one, on a Cortex-M7, as QEMU counts instructions.

MobileNetV1 and V2 1.0 224 with all activations at 8 bits, weights of 4 bits so that they fit the
board's flash, and random values: instructions do not depend on them. Layer by layer they take an
arena of 1.2 and 1.5 MB; then, for each RAM, the chains that the planner chooses. Every output must
be that of the layers one by one, and the arena must fit a linker region of exactly the RAM.

    .venv/bin/python benchmarks/streaming.py [--networks v1 v2] [--ram 524288 262144]
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
from tfmix.integer.convert import skeleton
from tfmix.integer.inference import IntegerModel
from tfmix.integer.model import IntegerNetwork, IntegerNode
from tfmix.ir.graph import FIXED_BITS, Graph
from tfmix.ir.quant import max_level
from tfmix.policy.cost.streaming import planner_of
from tfmix.policy.policy import QuantizationPolicy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from graphs import mobilenet_v1, mobilenet_v2  # noqa: E402
from network_on_target import build_firmware, compile_kernels, macs, run_firmware  # noqa: E402
from target import M7, TOOLS, ToolMissing, command, require  # noqa: E402

RESULTS = Path(__file__).with_name("streaming.json")
NETWORKS = {
    "v1": ("MobileNetV1 1.0 224", mobilenet_v1),
    "v2": ("MobileNetV2 1.0 224", mobilenet_v2),
}
WEIGHT_BITS = 4
FLASH = 3 << 20
RAMS = (512 << 10, 256 << 10)


@dataclass(frozen=True)
class Result:
    """One way to run a network. ram: the region its arena is linked to; chains: first and last
    layer, and the rows of a call; ratio: of the instructions to those of layer by layer."""

    network: str
    ram: int | None
    chains: tuple[tuple[str, str, int], ...]
    arena: int
    instructions: int
    macs: int
    ratio: float


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


def measure(key: str, rams: list[int], directory: Path) -> Iterator[Result]:
    name, make = NETWORKS[key]
    graph = make()
    policy = QuantizationPolicy(
        {node.name: WEIGHT_BITS for node in graph.weighted_nodes},
        {tensor: FIXED_BITS for tensor in graph.quantized_tensors},
    )
    network = random_network(graph, policy)
    shape = (1, *network.input_shape)
    q = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    expected = IntegerModel(network).run(q)
    # Only the variants that the network calls, which saves a minute.
    *_, variants = tfmix.export_c(IntegerModel(network), directory, name="network")
    kernels = compile_kernels(M7, directory / key, ["-include", str(variants)])
    alone = None
    for ram in (None, *rams):
        if ram is None:
            model = network
        else:
            plan = planner_of(graph).fitting(policy.activation_bits, ram)
            if plan is None:
                print(f"{name}: nothing fits {ram:,} B", flush=True)
                continue
            model = replace(network, chains=plan.chains, bands=plan.bands)
        place = directory / f"{key}-{ram}"
        budget = Budget(FLASH, ram or 2 << 20)
        firmware = build_firmware(IntegerModel(model), kernels, M7, place, budget)
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
            arena=firmware.arena,
            instructions=instructions,
            macs=macs(network),
            ratio=round(instructions / alone, 4),
        )


def show(result: Result) -> None:
    ram = "layer by layer" if result.ram is None else f"in {result.ram:,} B"
    print(f"{result.network} {ram:16} arena {result.arena:9,}", end="")
    print(
        f"  {result.instructions:13,} instructions, {result.instructions / result.macs:.3f} a MAC",
        end="",
    )
    print(f"  x {result.ratio:.4f}")
    for first, last, band in result.chains:
        print(f"    {first}..{last}, {band} rows a call")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--ram", nargs="*", type=int, default=list(RAMS), help="bytes")
    options = parser.parse_args()
    try:
        require(*TOOLS)
    except ToolMissing as missing:
        raise SystemExit(f"{missing}: nothing can be measured") from None
    start, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        for key in options.networks:
            for result in measure(key, options.ram, Path(name)):
                show(result)
                results.append(result)
    print(f"{time.monotonic() - start:.0f} s")
    if (options.networks, options.ram) != ([*NETWORKS], list(RAMS)):
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
