"""RAM that the planner of chains needs for the papers' networks, all activations at 8 bits.

Planned, not measured: the arena of TensorFlow Lite Micro in use, interpreter included. The table of
docs/streaming.md.

.venv/bin/python benchmarks/streaming_plans.py
"""

from __future__ import annotations

from collections.abc import Iterator

from tfmix import models
from tfmix.ir.graph import FIXED_BITS, Graph, as_graph
from tfmix.policy.cost import arena
from tfmix.policy.cost.memory import DeployedMemory, StreamingMemory
from tfmix.policy.cost.streaming import added_instructions, planner_of
from tfmix.policy.policy import QuantizationPolicy

KILOBYTE = 1024
RAMS = (512 * KILOBYTE, 256 * KILOBYTE, 128 * KILOBYTE)


def networks() -> Iterator[tuple[str, Graph]]:
    for width in (1.0, 0.75, 0.5):
        for resolution in (224, 192, 160):
            model = models.mobilenet_v1(resolution, width)
            yield f"MobileNetV1 {width} {resolution}", as_graph(model)
    for resolution in (224, 192, 160):
        yield f"MobileNetV2 1.0 {resolution}", as_graph(models.mobilenet_v2(resolution))
    yield "MNasNet-A1 1.0 224", as_graph(models.mnasnet_a1())


def row(graph: Graph) -> list[str]:
    """RAM layer by layer; for each limit RAM, chains, layers in them, added instructions for each
    hundred MACs; the least RAM; the least arena without an interpreter, image by rows."""
    policy = QuantizationPolicy.uniform(graph, FIXED_BITS)
    bits = policy.activation_bits
    cells = [f"{DeployedMemory(graph, lambda _: 0).ram_bytes(policy):,}"]
    macs = sum(graph.macs(node) for node in graph.nodes)
    for ram in RAMS:
        memory = StreamingMemory(graph, lambda _, plan: 0, ram)
        plan = memory.at(bits).plan
        if memory.ram_bytes(policy) > ram:
            cells.append("-")
        elif not plan.chains:
            cells.append("layer by layer")
        else:
            layers = sum(map(len, plan.chains))
            added = 100 * added_instructions(graph, bits, plan) / macs
            cells.append(
                f"{memory.ram_bytes(policy):,} ({len(plan.chains)}, {layers}, {added:.1f} %)"
            )
    cells.append(f"{memory.tightest(bits).ram_bytes(policy):,}")
    planner = planner_of(graph, input_by_rows=True)
    by_rows = arena.plan(planner.schedule(bits, planner.smallest(bits))).total
    return [*cells, f"{by_rows:,}"]


def main() -> None:
    heads = ["network", "layer by layer", *(f"{ram // KILOBYTE} kB" for ram in RAMS), "least"]
    heads.append("least, image by rows")
    print(f"| {' | '.join(heads)} |")
    print("|---|" + "---:|" * (len(heads) - 1))
    for name, graph in networks():
        print(f"| {' | '.join([name, *row(graph)])} |", flush=True)


if __name__ == "__main__":
    main()
