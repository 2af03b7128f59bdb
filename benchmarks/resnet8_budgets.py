"""ResNet-8 on CIFAR-10 within (48 kB, 36 kB) and (32 kB, 28 kB), by the rule-based policy.

Fine-tunes for --epochs on 50,000 images, beside the float model tuned as long and in the same way,
and prints accuracy, real file size, planned arena and agreement.

    .venv/bin/python benchmarks/resnet8_budgets.py [--epochs 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tf_keras
from common import load_cifar10, load_model, machine, require_data

import tfmix

BUDGETS = (("48 kB", "36 kB"), ("32 kB", "28 kB"))
BATCH = 128


def tune(model: tf_keras.Model, data, epochs: int, rate: float) -> float:
    """Trains in place; returns seconds per epoch."""
    x, y = data
    schedule = tf_keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // BATCH))
    model.compile(tf_keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    start = time.time()
    model.fit(x, y, BATCH, epochs, verbose=2)
    return (time.time() - start) / epochs


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((scores.argmax(axis=-1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    require_data()
    tf_keras.utils.set_random_seed(args.seed)
    train, (x, y) = load_cifar10("train"), load_cifar10("dev")
    print(f"# {machine()}; {args}")

    model = load_model("resnet8_cifar10_jpeg_ft")
    print(f"float, as given: {top1(model.predict(x, 500, verbose=0), y):.2f} %")
    seconds = tune(model, train, args.epochs, args.rate)
    print(
        f"float, tuned: {top1(model.predict(x, 500, verbose=0), y):.2f} %, {seconds:.0f} s an epoch"
    )
    for flash, ram in BUDGETS:
        budget = tfmix.Budget(flash, ram, streaming="off")
        tf_keras.utils.set_random_seed(args.seed)
        model = load_model("resnet8_cifar10_jpeg_ft")
        qmodel = tfmix.quantize_model(model, budget, calibration_data=train[0][:1024])
        before = top1(qmodel.predict(x, 500, verbose=0), y)
        seconds = tune(qmodel, train, args.epochs, args.rate)
        scores = qmodel.predict(x, 500, verbose=0)
        with tempfile.TemporaryDirectory() as folder:
            path = tfmix.export(qmodel, Path(folder) / "model.tflite")
            integer_model, size = tfmix.load(path), path.stat().st_size
        start = time.time()
        outputs = integer_model.predict(x)
        run = time.time() - start
        report = tfmix.memory_report(qmodel, budget=budget)
        assert size == report.flash_bytes <= budget.flash and report.ram_bytes <= budget.ram
        agreement = 100 * np.mean(outputs.argmax(axis=-1) == scores.argmax(axis=-1))
        print(
            f"({flash}, {ram}): calibrated {before:.2f} %, tuned {top1(scores, y):.2f} %, integer "
            f"{top1(outputs, y):.2f} %, agreement {agreement:.2f} %, file {size:,} B, arena "
            f"{report.ram_bytes:,} B, {seconds:.0f} s an epoch, {len(x)} images in C {run:.1f} s"
        )


if __name__ == "__main__":
    main()
