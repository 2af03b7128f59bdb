"""Seconds of one training epoch of ResNet-8: float, tfmot's own 8-bit QAT, and tfmix.

They take turns, so that noise of the machine hits all alike; the ratio of medians is what counts.
Where other programs run too, that of CPU seconds (all threads) is the steadier one.

    .venv/bin/python benchmarks/fakequant_speed.py [--images 8192] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time

import tf_keras
from common import load_cifar10, load_model, machine, require_data

import tfmix
from tfmix.fakequant._tfmot import tfmot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    require_data()
    x, y = load_cifar10("train", args.images)
    float_model = load_model("resnet8_cifar10_jpeg_ft")
    models: dict[str, tf_keras.Model] = {
        "float": float_model,
        "tfmot 8-bit QAT": tfmot.quantization.keras.quantize_model(float_model),
        "tfmix": tfmix.quantize_model(float_model, None, calibration_data=x[:256], verbose=0),
        "tfmix, min-max, PACT": tfmix.quantize_model(
            float_model,
            None,
            calibration_data=x[:256],
            weight_quantizer="minmax",
            activation_quantizer="pact",
            verbose=0,
        ),
    }
    for model in models.values():
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x[:512], y[:512], 128, verbose=0)
    clocks = {"wall": time.perf_counter, "CPU": time.process_time}
    seconds = {name: {clock: [] for clock in clocks} for name in models}
    for _ in range(args.rounds):
        for name, model in models.items():
            start = {clock: now() for clock, now in clocks.items()}
            model.fit(x, y, 128, verbose=0)
            for clock, now in clocks.items():
                seconds[name][clock].append(now() - start[clock])
    print(f"# {machine()}; epoch of {args.images} images, {args.rounds} rounds, batch 128")
    for clock in clocks:
        base = statistics.median(seconds["tfmot 8-bit QAT"][clock])
        for name, found in seconds.items():
            values = found[clock]
            median = statistics.median(values)
            print(
                f"{name:20} {clock:4} min {min(values):6.2f}  median {median:6.2f}  "
                f"max {max(values):6.2f} s, {median / base:.2f} x tfmot"
            )


if __name__ == "__main__":
    main()
