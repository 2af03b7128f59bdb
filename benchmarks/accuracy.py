"""What training, and calibration alone, make of a network at few bits: the table of RESULTS.md.

    .venv/bin/python benchmarks/accuracy.py --out DIR            every row, every seed; hours
    .venv/bin/python benchmarks/accuracy.py --out DIR --quick    to see that it runs; minutes

Each finished run is on record in --out, and skipped the next time; --rows and --seeds choose some.
--other names an archive like cifar10_dev.npz, on which all is scored too. The tables are printed,
and accuracy against FLASH and RAM is drawn to accuracy.png, from whatever is on record.

The first convolution and the last dense layer, their weights and what they read, have 8 bits in
all rows but "all 4 bits" and the budgets, as in Esser et al. 2020, section 2.3. Budgets here count
packed weights alone, and the largest sum of tensors alive at a node.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras
from common import load_cifar10, load_keyword_spotting, load_model, machine, require_data
from records import Records

import tfmix
from tfmix.fakequant.evaluate import ModelEvaluator
from tfmix.policy.cost.memory import PaperMemory, packed_weight_bytes
from tfmix.policy.search.session import SearchSession, run
from tfmix.search.problem import pose

BATCH = 32
RATE = 1e-3
PAPER_BATCH = 128
PAPER_RATE = 1e-4
MOBILENET_BATCH = 128
SEEDS = (0, 1, 2)


# -- policies -----------------------------------------------------------------------------------


class TensorMemory(PaperMemory):
    """Packed weights and nothing beside them; the largest sum of tensors alive at a node."""

    def flash_bytes(self, policy: tfmix.QuantizationPolicy) -> int:
        return sum(
            packed_weight_bytes(self.graph, node, policy.weight_bits[node.name])
            for node in self.graph.weighted_nodes
        )


def uniform(weights: int, activations: int, ends: int = 8) -> Callable[..., Any]:
    """A policy of the same bits everywhere; `ends`: of the first layer's weights, and of the last
    layer's weights and input, the last tensor but one. The network's input has 8 bits always."""

    def policy(model: tf_keras.Model, settings: Settings, seed: int) -> tfmix.QuantizationPolicy:
        bits = tfmix.QuantizationPolicy.uniform(model, activations)
        names = list(bits.weight_bits)
        bits = bits.replace(weights=dict.fromkeys(names, weights))
        last_input = list(bits.activation_bits)[-2]
        return bits.replace(
            weights={names[0]: ends, names[-1]: ends},
            activations={last_input: max(activations, ends)},
        )

    return policy


def within(flash: int, ram: int, method: str = "ilp") -> Callable[..., Any]:
    """The policy that `method` finds, sensitivities measured on training images."""

    def policy(model: tf_keras.Model, settings: Settings, seed: int) -> tfmix.QuantizationPolicy:
        problem = pose(model, tfmix.Budget(flash, ram, accounting="paper"), None, seed=seed)
        problem = replace(problem, memory=TensorMemory(problem.graph))
        x, y = settings.train
        count = settings.search_images
        evaluator = ModelEvaluator(model, (x[-count:], y[-count:]), seed=seed)
        problem = replace(problem, measures=evaluator.measures, estimate=evaluator.estimate)
        return run(SearchSession(method, problem), evaluator, progress=lambda session: None).policy

    return policy


# -- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table: how a network gets its bits, and how it is trained if at all.

    target: points below the float network that are allowed; None where there is no such target.
    """

    policy: Callable[..., Any]
    recipe: str = "ours"
    epochs: float = 1
    target: float | None = None


#: epochs: in multiples of --epochs.
RESNET8 = {
    "w8a8": Row(uniform(8, 8), target=0.1),
    "w4a4": Row(uniform(4, 4), target=0.4),
    "all 4 bits": Row(uniform(4, 4, ends=4), target=1.0),
    "w2a8": Row(uniform(2, 8), target=0.8),
    "w2a4": Row(uniform(2, 4), target=1.2),
    "w2a2": Row(uniform(2, 2), target=6.0),
    "40000, 32768": Row(within(40_000, 32_768), target=0.2),
    "28000, 24576": Row(within(28_000, 24_576), target=0.4),
    "28000, 24576 by rule": Row(within(28_000, 24_576, "memory")),
    "22000, 16384": Row(within(22_000, 16_384), target=2.0),
    "28000, 24576, ours longer": Row(within(28_000, 24_576), epochs=2.5),
    "28000, 24576, papers' recipe": Row(within(28_000, 24_576), recipe="papers", epochs=2.5),
}
UNTRAINED = {
    "w8a8": Row(uniform(8, 8), target=0.1),
    "w4a8": Row(uniform(4, 8), target=0.5),
    "w4a4": Row(uniform(4, 4), target=1.2),
    "w2a8": Row(uniform(2, 8), target=6.0),
}
KEYWORDS = {
    "w8a8": Row(uniform(8, 8), target=0.4),
    "w4a8": Row(uniform(4, 8), target=1.5),
    "w4a4": Row(uniform(4, 4), target=3.0),
}
MOBILENET = {"w4a4": Row(uniform(4, 4), target=1.5)}


@dataclass(frozen=True)
class Settings:
    """Sizes, and the data cut to them."""

    epochs: int
    train: tuple[np.ndarray, np.ndarray]
    tests: dict[str, tuple[np.ndarray, np.ndarray]]
    folder: Path
    search_images: int = 1024
    calibration: int = 512
    rounding_steps: int | None = None
    mobilenet_epochs: int = 30


def scores(model: tf_keras.Model, settings: Settings, quantized: bool = True) -> dict[str, Any]:
    """Top-1 in per cent on each test set, of the integer network too, and what it takes."""
    record: dict[str, Any] = {}
    integer = tfmix.convert(model) if quantized else None
    for part, (x, y) in settings.tests.items():
        record[part] = top1(model.predict(x, 500, verbose=0), y)
        if integer is not None:
            record[f"{part}, integer"] = top1(integer.predict(x), y)
    if quantized:
        report = tfmix.memory_report(model)
        record |= {"file": report.flash_bytes, "arena": report.ram_bytes}
        record["weights"] = report.weight_bytes
        record["tensors"] = TensorMemory(pose(model, None, None).graph).ram_bytes(
            tfmix.get_policy(model)
        )
        record["policy"] = tfmix.get_policy(model).to_json()
        kept = settings.folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.weights.h5"
        model.save_weights(kept)  # to be looked at again
        record["weights_file"] = kept.name
    return record


def top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((outputs.argmax(axis=-1) == labels).mean())


def tuned_float(model: tf_keras.Model, settings: Settings, epochs: int) -> None:
    """As the quantized networks are trained, as far as that applies."""
    x, y = settings.train
    schedule = tf_keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(x) // BATCH))
    model.compile(tf_keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    model.fit(x, y, BATCH, epochs, verbose=2)


def trained(
    load: Callable[[], tf_keras.Model], row: Row, settings: Settings, seed: int
) -> dict[str, Any]:
    tf_keras.utils.set_random_seed(seed)
    teacher = load()
    epochs = max(1, round(row.epochs * settings.epochs))
    papers = row.recipe == "papers"
    quantizers = {"weight_quantizer": "minmax", "activation_quantizer": "pact"} if papers else {}
    model = tfmix.quantize_model(
        teacher, None, calibration_data=settings.train[0][:1024], seed=seed, verbose=0, **quantizers
    )
    tfmix.set_policy(model, row.policy(model, settings, seed))
    start = time.perf_counter()
    if papers:
        x, y = settings.train
        model.compile(tf_keras.optimizers.Adam(PAPER_RATE), "sparse_categorical_crossentropy")
        model.fit(x, y, PAPER_BATCH, epochs, verbose=2)
    else:
        tfmix.finetune(
            model, settings.train, epochs=epochs, teacher=teacher, learning_rate=RATE,
            batch_size=BATCH, seed=seed, verbose=2,
        )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    return scores(model, settings) | {"minutes": minutes, "epochs": epochs}


def untrained(
    load: Callable[[], tf_keras.Model],
    row: Row,
    settings: Settings,
    calibration: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    tf_keras.utils.set_random_seed(seed)
    model = tfmix.quantize_model(load(), None, calibration_data=calibration, seed=seed, verbose=0)
    tfmix.set_policy(model, row.policy(model, settings, seed))
    start = time.perf_counter()
    steps = {} if settings.rounding_steps is None else {"steps": settings.rounding_steps}
    tfmix.calibrate(model, calibration, seed=seed, **steps)
    minutes = (time.perf_counter() - start) / 60
    return scores(model, settings) | {"minutes": minutes}


# -- MobileNet ----------------------------------------------------------------------------------


def mobilenet(settings: Settings) -> tf_keras.Model:
    """MobileNetV1 0.25 for 32x32 images, trained here: flips and shifts, padded with the edge."""
    path = settings.folder / f"mobilenet_{len(settings.train[0])}_{settings.mobilenet_epochs}.keras"
    if path.exists():
        return tf_keras.models.load_model(path, compile=False)
    tf_keras.utils.set_random_seed(0)
    model = tf_keras.applications.MobileNet((32, 32, 3), 0.25, weights=None, classes=10)
    x, y = settings.train
    rng = np.random.default_rng(0)
    steps = settings.mobilenet_epochs * -(-len(x) // MOBILENET_BATCH)
    schedule = tf_keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(tf_keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    for epoch in range(settings.mobilenet_epochs):
        model.fit(
            augmented(scaled(x), rng), y, MOBILENET_BATCH, epoch + 1, initial_epoch=epoch, verbose=2
        )
    model.save(path)
    return model


def scaled(x: np.ndarray) -> np.ndarray:
    return x / 127.5 - 1


def augmented(x: np.ndarray, rng: np.random.Generator, most: int = 4) -> np.ndarray:
    """Each image shifted by up to `most` pixels, its edge repeated, and every other one flipped."""
    size = x.shape[1]
    rows, columns = (
        np.clip(np.arange(size) + rng.integers(-most, most + 1, (len(x), 1)), 0, size - 1)
        for _ in range(2)
    )
    flipped = rng.random(len(x)) < 0.5
    columns[flipped] = columns[flipped, ::-1]
    return x[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]


# -- the whole ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows of one network: how to run each, and its float accuracy to compare with."""

    title: str
    rows: dict[str, Row]
    run: Callable[[Row, int], dict[str, Any]]
    run_float: Callable[[int], dict[str, Any]]


def tables(settings: Settings) -> list[Table]:
    resnet8 = partial(load_model, "resnet8_cifar10_jpeg_ft")
    keywords = partial(load_model, "kws_ref_model")
    images = settings.train[0][: settings.calibration]
    kws_x, kws_y = load_keyword_spotting()
    kws = replace(settings, tests={"dev": (kws_x[250:], kws_y[250:])})
    small = replace(
        settings,
        train=(scaled(settings.train[0]), settings.train[1]),
        tests={part: (scaled(x), y) for part, (x, y) in settings.tests.items()},
    )

    def float_scores(load: Callable[[], Any], s: Settings, epochs: int, seed: int) -> dict:
        tf_keras.utils.set_random_seed(seed)
        model = load()
        if epochs:
            tuned_float(model, s, epochs)
        return scores(model, s, quantized=False)

    mobile = cache(partial(mobilenet, settings))
    return [
        Table(
            f"ResNet-8, {settings.epochs} epochs",
            RESNET8,
            lambda row, seed: trained(resnet8, row, settings, seed),
            lambda seed: float_scores(resnet8, settings, settings.epochs, seed),
        ),
        Table(
            f"ResNet-8, no training, {settings.calibration} inputs",
            UNTRAINED,
            lambda row, seed: untrained(resnet8, row, settings, images, seed),
            lambda seed: float_scores(resnet8, settings, 0, seed),
        ),
        Table(
            "DS-CNN, no training, 250 inputs",
            KEYWORDS,
            lambda row, seed: untrained(keywords, row, kws, kws_x[:250], seed),
            lambda seed: float_scores(keywords, kws, 0, seed),
        ),
        Table(
            f"MobileNetV1 0.25, 32x32, {settings.epochs} epochs",
            MOBILENET,
            lambda row, seed: trained(mobile, row, small, seed),
            lambda seed: float_scores(mobile, small, settings.epochs, seed),
        ),
    ]


def report(records: Records, every: list[Table], folder: Path) -> None:
    for table in every:
        print(f"\n## {table.title}\n")
        base = records.all(table=table.title, row="float")
        parts = [name for name in ("dev", "other") if any(name in r for r in base)]
        heads = [f"{part}, {kind}" for part in parts for kind in ("%", "below float", "integer")]
        print(f"| row | {' | '.join(heads)} | allowed | file, B | arena, B | minutes | seeds |")
        print("|---" * (len(heads) + 6) + "|")
        print(f"| float | {' | '.join(f'{mean(base, p):.2f} | |' for p in parts)} | | | | |")
        for name, row in table.rows.items():
            found = records.all(table=table.title, row=name)
            if not found or not base:
                continue
            cells = []
            for part in parts:
                cells += [
                    f"{mean(found, part):.2f}{deviation(found, part)}",
                    f"{mean(base, part) - mean(found, part):+.2f}",
                    f"{mean(found, f'{part}, integer'):.2f}",
                ]
            allowed = "" if row.target is None else f"{row.target}"
            cells += [allowed, *(f"{mean(found, key):,.0f}" for key in ("file", "arena"))]
            cells += [f"{mean(found, 'minutes'):.1f}", str(len(found))]
            print(f"| {name} | {' | '.join(cells)} |")
    draw(records, every, folder / "accuracy.png")


def mean(records: list[dict[str, Any]], key: str) -> float:
    values = [record[key] for record in records if key in record]
    return statistics.fmean(values) if values else float("nan")


def deviation(records: list[dict[str, Any]], key: str) -> str:
    values = [record[key] for record in records if key in record]
    return f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""


def draw(records: Records, every: list[Table], path: Path) -> None:
    """Accuracy of the trained ResNet-8 against file and arena."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    table = every[0]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name in table.rows:
        found = records.all(table=table.title, row=name)
        for axis, key in zip(axes, ("file", "arena"), strict=True):
            if found:
                x, y = mean(found, key) / 1024, mean(found, "dev")
                axis.plot(x, y, "o")
                axis.annotate(name, (x, y), fontsize=7, xytext=(4, 3), textcoords="offset points")
    base = records.all(table=table.title, row="float")
    for axis, label in zip(axes, ("FLASH: file, kB", "RAM: arena in TFLM, kB"), strict=True):
        if base:
            axis.axhline(mean(base, "dev"), linestyle="--", linewidth=1, color="grey")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 on dev, %")
    figure.suptitle(table.title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all")
    parser.add_argument("--tables", nargs="+", type=int, default=[0, 1, 2, 3], help="0 to 3")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    require_data()
    records = Records(args.out)

    parts: dict[str, Any] = {"dev": "dev"} | ({"other": args.other} if args.other else {})
    count = 500 if args.quick else None
    settings = Settings(
        epochs=1 if args.quick else args.epochs,
        train=load_cifar10("train", 1024 if args.quick else None),
        tests={name: load_cifar10(part, count) for name, part in parts.items()},
        folder=args.out,
    )
    if args.quick:
        settings = replace(
            settings, search_images=128, calibration=64, rounding_steps=20, mobilenet_epochs=1
        )
        args.seeds = args.seeds[:1]
    print(f"# {machine()}; {args}")
    every = tables(settings)
    chosen = [every[index] for index in args.tables]
    for seed, table in itertools.product(args.seeds, chosen):
        if args.rows is None or "float" in args.rows:
            records.run(partial(table.run_float, seed), table=table.title, row="float", seed=seed)
        for name, row in table.rows.items():
            if args.rows is None or name in args.rows:
                records.run(partial(table.run, row, seed), table=table.title, row=name, seed=seed)
    report(records, chosen, args.out)


if __name__ == "__main__":
    main()
