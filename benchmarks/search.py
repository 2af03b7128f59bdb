"""Search methods compared on ResNet-8 and CIFAR-10, within (40 kB, 32 kB) and (28 kB, 24 kB).

In stages, each of many runs; every run adds a line to records.jsonl in --out, and those that are
there are skipped, so that it can be stopped at any point and go on later:

    .venv/bin/python benchmarks/search.py search --out DIR     policies and how they were found
    .venv/bin/python benchmarks/search.py untrained --out DIR  their accuracy without training
    .venv/bin/python benchmarks/search.py tune --out DIR       their accuracy after --epochs
    .venv/bin/python benchmarks/search.py report --out DIR     the tables of RESULTS.md

Searches see 1,524 of the 50,000 training images: 1,024 to train each episode on, 500 to measure
with; accuracies in the tables are of the 5,000 of the dev set, which no search sees.
--methods, --budgets and --seeds choose some of the runs; --quick runs all of it in minutes, to
see that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras
from common import load_cifar10, load_model, machine, require_data
from records import Records

import tfmix
from tfmix.policy.search.session import SearchResult

NETWORK = "resnet8_cifar10_jpeg_ft"
BUDGETS = {"40,32": ("40 kB", "32 kB"), "28,24": ("28 kB", "24 kB")}
SEEDS = (0, 1, 2)
RATE = 1e-3
#: Of the batch norms while an agent trains: with the usual 0.99, statistics would hardly have moved
#: after the few batches of an episode, and validation would measure nothing else.
EPISODE_MOMENTUM = 0.9

#: What is searched with. Residual sums of three tensors of 16 kB fit neither budget at 8 bits.
AGENT = {"pin_residuals": False}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ilp": ("ilp", {}),
    "rl concurrent": ("rl", {"strategy": "concurrent", **AGENT}),
    "rl independent": ("rl", {"strategy": "independent", **AGENT}),
    "memory": ("memory", {}),
    "random": ("random", {"train": True}),
}
#: Policies found on the way: name -> (the search, which of its first episodes are looked at).
ON_THE_WAY = {
    "rl, first 60": ("rl concurrent", 60),
    "random, first": ("random", 1),
}
POLICIES = (*METHODS, *ON_THE_WAY)


@dataclass(frozen=True)
class Sizes:
    """How much of everything. Episodes: of each method, None for its own default."""

    train: int | None = None
    test: int | None = None
    calibration: int = 1024
    proxy: tuple[int, int] = (1024, 500)
    proxy_batch: int = 64
    agent_episodes: int | None = None
    random_episodes: int = 60
    batch: int = 128


FULL = Sizes()
QUICK = Sizes(1000, 500, 128, (256, 100), agent_episodes=10, random_episodes=4)


# -- network and data ---------------------------------------------------------------------------


@cache
def data(part: str, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    return load_cifar10(part, count)


def quantized(sizes: Sizes, policy: tfmix.QuantizationPolicy | None, seed: int) -> tf_keras.Model:
    """The network with calibrated ranges; `policy` None: 8 bits."""
    images = data("train", sizes.train)[0][: sizes.calibration]
    return tfmix.quantize_model(
        load_model(NETWORK),
        None,
        policy=policy,
        search="memory",
        calibration_data=images,
        seed=seed,
        verbose=0,
    )


def compile_for(model: tf_keras.Model, images: int, batch: int, epochs: int = 1) -> None:
    schedule = tf_keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-images // batch))
    optimizer = tf_keras.optimizers.Adam(schedule)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


def dev_accuracy(model: tf_keras.Model, sizes: Sizes) -> float:
    """Top-1 in per cent."""
    x, y = data("dev", sizes.test)
    return 100 * float((model.predict(x, 500, verbose=0).argmax(axis=-1) == y).mean())


def budget_of(name: str) -> tfmix.Budget:
    """With layers one by one: row by row, 8 bits hold the RAM, and nothing is left to search."""
    return tfmix.Budget(*BUDGETS[name], streaming="off")


# -- stage "search" -----------------------------------------------------------------------------


class Clock(tf_keras.callbacks.Callback):
    """Seconds of every epoch of `fit`, validation included; traces of its functions after each."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.traces: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._before = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._before)
        self._before = now
        functions = (self.model.train_function, self.model.test_function)
        self.traces.append(sum(f.experimental_get_tracing_count() for f in functions))


def search(records: Records, sizes: Sizes, name: str, budget: str, seed: int) -> dict[str, Any]:
    """Finds a policy; what a record holds of it. A search with a journal goes on from there."""
    tf_keras.utils.set_random_seed(seed)
    method, options = METHODS[name]
    model = quantized(sizes, None, seed)
    training, validation = tfmix.proxy(
        data("train", sizes.train), *sizes.proxy, batch_size=sizes.proxy_batch
    )
    journal = records.folder / f"{name}_{budget}_{seed}.journal".replace(" ", "_")
    start = time.perf_counter()
    if method in ("memory", "ilp"):
        result = tfmix.search_policy(
            model, budget_of(budget), method, validation_data=validation, seed=seed, verbose=0,
            **options,
        )  # fmt: skip
        return summary(result) | {"seconds": time.perf_counter() - start}

    episodes = sizes.agent_episodes if method == "rl" else sizes.random_episodes
    callback = tfmix.PolicySearch(
        method, budget_of(budget), journal=journal, seed=seed, **options,
        **({} if episodes is None else {"episodes": episodes}),
    )  # fmt: skip
    for layer in model.submodules:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.momentum = EPISODE_MOMENTUM
    compile_for(model, sizes.proxy[0], sizes.proxy_batch)
    clock = Clock()
    model.fit(
        training, epochs=10_000, validation_data=validation, callbacks=[callback, clock], verbose=0
    )
    return summary(callback.result) | {
        "seconds": time.perf_counter() - start,
        "episode_seconds": clock.seconds,
        "plain_seconds": plain_epochs(model, training, validation),
        "retraces": clock.traces[-1] - clock.traces[0],
    }


def plain_epochs(model: tf_keras.Model, training: Any, validation: Any) -> list[float]:
    """Seconds of epochs with validation and without a search, the model as it is."""
    clock = Clock()
    model.fit(training, epochs=6, validation_data=validation, callbacks=[clock], verbose=0)
    return clock.seconds[1:]


def summary(result: SearchResult) -> dict[str, Any]:
    """A result as JSON: the policy, its bytes, and of each episode what became of it."""
    episodes = [e for e in result.evaluations if "episode" in e.trial.note]
    return {
        "policy": document(result.policy),
        "score": result.score,
        "flash": result.flash_bytes,
        "ram": result.ram_bytes,
        "trials": len(result.evaluations),
        "history": [
            {
                "value": e.value,
                "flash": e.flash_bytes,
                "ram": e.ram_bytes,
                "phase": e.trial.note.get("phase"),
                "policy": document(e.trial.policy),
            }
            for e in episodes
        ],
    }


def document(policy: tfmix.QuantizationPolicy) -> dict[str, Any]:
    return json.loads(policy.to_json())


def policy_of(document: dict[str, Any]) -> tfmix.QuantizationPolicy:
    return tfmix.QuantizationPolicy.from_json(json.dumps(document))


def found(records: Records, name: str, budget: str, seed: int) -> tfmix.QuantizationPolicy | None:
    """The policy of that name; None as long as its search has not been run."""
    searched, first = ON_THE_WAY.get(name, (name, None))
    record = records.find(stage="search", name=searched, budget=budget, seed=seed)
    if record is None:
        return None
    if first is None:
        return policy_of(record["policy"])
    return policy_of(max(record["history"][:first], key=lambda e: e["value"])["policy"])


# -- stages "untrained" and "tune" --------------------------------------------------------------


def untrained(sizes: Sizes, policy: tfmix.QuantizationPolicy, seed: int) -> dict[str, Any]:
    """Accuracy as calibrated, and after each of the repairs that need no labels."""
    tf_keras.utils.set_random_seed(seed)
    model = quantized(sizes, policy, seed)
    images = data("train", sizes.train)[0][: sizes.calibration]
    weights = model.get_weights()
    record = {"calibrated": dev_accuracy(model, sizes)}
    tfmix.correct_bias(model, images)
    record["bias corrected"] = dev_accuracy(model, sizes)
    model.set_weights(weights)
    tfmix.reestimate_batch_norm(model, images)
    record["batch norm re-estimated"] = dev_accuracy(model, sizes)
    return record


def tune(sizes: Sizes, model: tf_keras.Model, seed: int, epochs: int) -> dict[str, Any]:
    tf_keras.utils.set_random_seed(seed)
    x, y = data("train", sizes.train)
    compile_for(model, len(x), sizes.batch, epochs)
    start = time.perf_counter()
    model.fit(x, y, sizes.batch, epochs, verbose=2)
    seconds = (time.perf_counter() - start) / epochs
    return {"accuracy": dev_accuracy(model, sizes), "epoch_seconds": seconds}


# -- stage "report" -----------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """Mean and standard deviation; how many there are, where they are not three."""
    if not values:
        return ""
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text + unit + ("" if len(values) == len(SEEDS) else f" ({len(values)})")


def report(records: Records) -> None:
    print(f"# {machine()}\n")
    float_runs = [r["accuracy"] for r in records.all(stage="tune", name="float")]
    epochs = max((r["epochs"] for r in records.all(stage="tune")), default=0)
    if float_runs:
        print(f"Float network after {epochs} epochs: {spread(float_runs)} %\n")
    titles = [f"({', '.join(sizes)})" for sizes in BUDGETS.values()]

    print(f"## Dev accuracy after {epochs} epochs, mean and spread over seeds, per cent")
    table(
        ["method", *titles],
        [
            [name, *(spread(values(records, "tune", "accuracy", name, b)) for b in BUDGETS)]
            for name in POLICIES
        ],
    )
    kinds = ("calibrated", "bias corrected", "batch norm re-estimated")
    print("## Dev accuracy without training")
    table(
        ["method", *(f"{title}, {kind}" for title in titles for kind in kinds)],
        [
            [
                name,
                *(
                    spread(values(records, "untrained", kind, name, b))
                    for b in BUDGETS
                    for kind in kinds
                ),
            ]
            for name in POLICIES
        ],
    )
    report_cost(records)
    report_learning(records)
    report_strategies(records)


def values(records: Records, stage: str, key: str, name: str, budget: str) -> list[float]:
    return [r[key] for r in records.all(stage=stage, name=name, budget=budget)]


def report_cost(records: Records) -> None:
    print("## Cost of a search")
    rows = []
    for name, budget in itertools.product(METHODS, BUDGETS):
        runs = records.all(stage="search", name=name, budget=budget)
        # A search that was stopped counted the time since it went on: its episodes are too few.
        whole = [r for r in runs if len(r.get("episode_seconds", [])) >= len(r["history"])]
        row = [name, budget, spread([r["trials"] for r in runs], 0)]
        row.append(spread([r["seconds"] for r in whole], 1))
        trained = [r for r in runs if r.get("episode_seconds")]
        row.append(spread([sum(r["episode_seconds"][:300]) for r in whole if trained], 1))
        medians = [
            (statistics.median(r["episode_seconds"]), statistics.median(r["plain_seconds"]))
            for r in trained
        ]
        row.append(spread([episode for episode, _ in medians], 3))
        row.append(spread([plain for _, plain in medians], 3))
        row.append(spread([episode / plain for episode, plain in medians]))
        row.append(", ".join(sorted({str(r.get("retraces", "")) for r in trained})))
        rows.append(row)
    table(
        ["method", "budget", "trials", "seconds", "first 300 episodes, s", "median episode, s",
         "epoch without search, s", "ratio", "traces after the first"],
        rows,
    )  # fmt: skip


def report_learning(records: Records) -> None:
    """The last 50 episodes against random bits that were cut by the same rule."""
    print("## What the agent learns: last 50 episodes, random and cut")
    rows = []
    for name, budget, seed in itertools.product(
        ("rl concurrent", "rl independent"), BUDGETS, SEEDS
    ):
        agent = records.find(stage="search", name=name, budget=budget, seed=seed)
        null = records.find(stage="search", name="random", budget=budget, seed=seed)
        if agent is None or null is None:
            continue
        limit = budget_of(budget)
        for what, key, scale in (
            ("accuracy, %", "value", 1),
            ("FLASH, %", "flash", limit.flash),
            ("RAM, %", "ram", limit.ram),
        ):
            last = [100 * e[key] / scale for e in agent["history"][-50:]]
            other = [100 * e[key] / scale for e in null["history"]]
            better = (statistics.fmean(last) - statistics.fmean(other)) / statistics.stdev(other)
            rows.append(
                [name, budget, str(seed), what, mean_and_deviation(last), mean_and_deviation(other),
                 f"{better:+.1f}"]
            )  # fmt: skip
    table(["method", "budget", "seed", "of", "last 50", "random", "difference in spreads"], rows)


def mean_and_deviation(numbers: Sequence[float]) -> str:
    return f"{statistics.fmean(numbers):.1f} ± {statistics.stdev(numbers):.1f}"


def report_strategies(records: Records) -> None:
    """How far apart two policies are, between strategies and between seeds."""
    print("## Independent against concurrent")
    rows = []
    for budget in BUDGETS:
        runs = {
            (name, seed): policy
            for name, seed in itertools.product(("rl concurrent", "rl independent"), SEEDS)
            if (policy := found(records, name, budget, seed)) is not None
        }
        groups: dict[str, list[tuple[Any, Any]]] = {}
        for one, other in itertools.combinations(runs, 2):
            if one[0] == other[0]:
                groups.setdefault(f"two seeds, {one[0]}", []).append((one, other))
            elif one[1] == other[1]:
                groups.setdefault("concurrent and independent, same seed", []).append((one, other))
        for group, pairs in groups.items():
            distances = [hamming(runs[one], runs[other]) for one, other in pairs]
            gaps = [
                abs(accuracy(records, *one, budget) - accuracy(records, *other, budget))
                for one, other in pairs
                if accuracy(records, *one, budget) and accuracy(records, *other, budget)
            ]
            rows.append([budget, group, str(len(pairs)), spread(distances, 1), spread(gaps)])
    table(
        ["budget", "between", "pairs", "tensors with other bits", "gap after tuning, points"], rows
    )


def accuracy(records: Records, name: str, seed: int, budget: str) -> float | None:
    record = records.find(stage="tune", name=name, budget=budget, seed=seed)
    return None if record is None else record["accuracy"]


def hamming(one: tfmix.QuantizationPolicy, other: tfmix.QuantizationPolicy) -> int:
    """How many tensors have other bits."""
    return sum(
        bits != there[name]
        for here, there in (
            (one.weight_bits, other.weight_bits),
            (one.activation_bits, other.activation_bits),
        )
        for name, bits in here.items()
    )


# -- command line -------------------------------------------------------------------------------


def runs_of(args: argparse.Namespace, names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Name, budget and seed, seeds last: the first results are of all methods."""
    for seed, budget, name in itertools.product(args.seeds, args.budgets, names):
        if name in args.methods:
            yield name, budget, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("search", "untrained", "tune", "report", "all"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--episodes", type=int, help="of each phase of rl, instead of its own")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    require_data()
    sizes = QUICK if args.quick else FULL
    if args.episodes is not None:
        sizes = replace(sizes, agent_episodes=args.episodes)
    records = Records(args.out)

    if args.stage in ("search", "all"):
        for name, budget, seed in runs_of(args, list(METHODS)):
            records.run(
                lambda n=name, b=budget, s=seed: search(records, sizes, n, b, s),
                stage="search", name=name, budget=budget, seed=seed,
            )  # fmt: skip
    for name, budget, seed in runs_of(args, POLICIES):
        policy = found(records, name, budget, seed)
        if policy is None:
            continue
        key = {"name": name, "budget": budget, "seed": seed}
        if args.stage in ("untrained", "all"):
            records.run(lambda p=policy, s=seed: untrained(sizes, p, s), stage="untrained", **key)
        if args.stage in ("tune", "all"):
            records.run(
                lambda p=policy, s=seed: tune(sizes, quantized(sizes, p, s), s, args.epochs),
                stage="tune", epochs=args.epochs, **key,
            )  # fmt: skip
    if args.stage in ("tune", "all"):
        for seed in args.seeds:
            records.run(
                lambda s=seed: tune(sizes, load_model(NETWORK), s, args.epochs),
                stage="tune", name="float", budget="", seed=seed, epochs=args.epochs,
            )  # fmt: skip
    if args.stage in ("report", "all"):
        report(records)


if __name__ == "__main__":
    main()
