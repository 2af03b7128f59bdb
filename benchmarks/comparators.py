"""The weights of the papers' comparisons at equal bytes: uniform grids and k-means codebooks.

    .venv/bin/python benchmarks/comparators.py --out DIR

ResNet-8 on CIFAR-10, activations at 8 bits, all packed weights within --bytes; beside them count
what each kind needs of its own: a zero point a channel, or a codebook of float32 a layer. The bits
of each layer are the optimum for the measured sensitivities of that kind. Then --epochs of training
on all images. Each finished run is on record in --out; --quick runs all of it in minutes.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import tf_keras
from common import load_model, machine, require_data
from records import Records
from search import FULL, NETWORK, QUICK, SEEDS, Sizes, data, spread, table, tune

from tfmix.fakequant.apply import graph_of
from tfmix.fakequant.simulation import set_weight_bits, simulate
from tfmix.policy.cost.memory import packed_weight_bytes

#: Name -> (weight quantizer, bits to choose from).
KINDS = {
    "uniform {2, 4, 8}": ("uniform", (2, 4, 8)),
    "uniform {2..8}": ("uniform", tuple(range(2, 9))),
    "k-means {2, 4, 8}": ("kmeans", (2, 4, 8)),
    "k-means {2..8}": ("kmeans", tuple(range(2, 9))),
}
SEARCH_IMAGES = 1024
_FLOAT_BYTES = 4


def simulated(quantizer: str, sizes: Sizes, seed: int) -> tf_keras.Model:
    images = data("train", sizes.train)[0][: sizes.calibration]
    return simulate(
        load_model(NETWORK), 8, weight_quantizer=quantizer, calibration_data=images, seed=seed
    )


def layer_bytes(model: tf_keras.Model, quantizer: str, bits: int) -> dict[str, int]:
    """Of each layer: packed weights, and what stands beside them for this quantizer alone."""
    graph = graph_of(model)
    return {
        node.name: packed_weight_bytes(graph, node, bits)
        + (_FLOAT_BYTES << bits if quantizer == "kmeans" else graph.output_channels(node))
        for node in graph.weighted_nodes
    }


def sensitivities(
    model: tf_keras.Model, allowed: tuple[int, ...], sizes: Sizes, seed: int
) -> dict[tuple[str, int], float]:
    """Increase of the loss on training images where one layer alone has fewer bits than 8."""
    x, y = data("train", sizes.train)
    chosen = np.random.default_rng(seed).permutation(len(x))[:SEARCH_IMAGES]
    model.compile(loss="sparse_categorical_crossentropy")

    def loss() -> float:
        return model.evaluate(x[chosen], y[chosen], 512, verbose=0)

    names = [node.name for node in graph_of(model).weighted_nodes]
    base, found = loss(), {}
    for name, bits in itertools.product(names, allowed):
        set_weight_bits(model, {name: bits})
        found[name, bits] = max(0.0, loss() - base)
        set_weight_bits(model, {name: 8})
    return found


def best_bits(
    model: tf_keras.Model, kind: str, limit: int, sizes: Sizes, seed: int
) -> dict[str, int]:
    """The multiple-choice knapsack: one width for each layer, least sum of increases."""
    quantizer, allowed = KINDS[kind]
    costs = sensitivities(model, allowed, sizes, seed)
    names = list(dict.fromkeys(name for name, _ in costs))
    taken = {bits: layer_bytes(model, quantizer, bits) for bits in allowed}
    one_each = [[float(name == n) for n, _ in costs] for name in names]
    result = scipy.optimize.milp(
        list(costs.values()),
        integrality=np.ones(len(costs)),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_each, 1, 1),
            scipy.optimize.LinearConstraint([[taken[b][n] for n, b in costs]], ub=limit),
        ],
    )
    if not result.success:
        raise SystemExit(f"{kind}: {limit} bytes do not hold the network at {min(allowed)} bits")
    return {name: bits for (name, bits), on in zip(costs, result.x, strict=True) if on > 0.5}


def trained(kind: str, limit: int, sizes: Sizes, seed: int, epochs: int) -> dict[str, Any]:
    tf_keras.utils.set_random_seed(seed)
    quantizer = KINDS[kind][0]
    model = simulated(quantizer, sizes, seed)
    bits = best_bits(model, kind, limit, sizes, seed)
    set_weight_bits(model, bits)
    taken = sum(layer_bytes(model, quantizer, b)[name] for name, b in bits.items())
    return {"bits": bits, "bytes": taken} | tune(sizes, model, seed, epochs)


def report(records: Records, limit: int, epochs: int) -> None:
    print(f"## Kinds of weights within {limit:,} B, {epochs} epochs, dev accuracy in per cent")
    rows = []
    for kind in KINDS:
        runs = records.all(kind=kind, limit=limit, epochs=epochs)
        if runs:
            bits = ", ".join(" ".join(map(str, run["bits"].values())) for run in runs)
            mean = f"{sum(run['bytes'] for run in runs) / len(runs):,.0f}"
            rows.append([kind, spread([run["accuracy"] for run in runs]), mean, bits])
    table(["weights", "accuracy", "bytes", "bits of the layers, by seed"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=24_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    require_data()
    sizes = QUICK if args.quick else FULL
    records = Records(args.out)
    print(f"# {machine()}\n")
    for seed, kind in itertools.product(args.seeds, args.kinds):
        records.run(
            lambda k=kind, s=seed: trained(k, args.bytes, sizes, s, args.epochs),
            kind=kind, seed=seed, limit=args.bytes, epochs=args.epochs,
        )  # fmt: skip
    report(records, args.bytes, args.epochs)


if __name__ == "__main__":
    main()
