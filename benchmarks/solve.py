"""Seconds that the integer program takes on the papers' networks, given a sensitivity table.

    .venv/bin/python benchmarks/solve.py

MobileNetV1, V2 1.0 224 and MNasNet-A1 at (2_048_000, 512_000), residual sums at 8 bits, counted as
the papers count and as it is deployed, over ten random tables each. Processor time of one process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import graphs
from common import machine
from fake_network import random_table

from tfmix.budget import Budget
from tfmix.export.memory import memory_model
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.optimum import minimise

NETWORKS = {
    "MobileNetV1 1.0 224": graphs.mobilenet_v1,
    "MobileNetV2 1.0 224": graphs.mobilenet_v2,
    "MNasNet-A1 224": graphs.mnasnet_a1,
}
BUDGET = (2_048_000, 512_000)
TABLES = 10


def main() -> None:
    print(f"# {machine()}\n")
    print("| network | accounting | optimal | feasible | seconds, median and most | gap at most |")
    print("|---|---|---|---|---|---|")
    for name, build in NETWORKS.items():
        graph = build()
        pinned = Pinned.parse(graph, graphs.residual_sums(graph))
        for accounting in ("paper", "deployed"):
            memory = memory_model(graph, "per_channel", accounting)
            problem = SearchProblem(memory, Budget(*BUDGET, accounting=accounting), pinned)
            seconds, gaps, optimal, fits = [], [], 0, 0
            for seed in range(TABLES):
                start = time.process_time()
                policy, proof = minimise(problem, random_table(graph, seed))
                seconds.append(time.process_time() - start)
                gaps.append(proof.gap / proof.objective)
                optimal += proof.optimal
                fits += problem.fits(policy)
            seconds.sort()
            print(
                f"| {name} | {accounting} | {optimal} of {TABLES} | {fits} of {TABLES} | "
                f"{seconds[TABLES // 2]:.1f}, {seconds[-1]:.1f} | {max(gaps):.3%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
