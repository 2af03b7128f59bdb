"""MobileNetV1 and V2 1.0 224 (random weights) in (2 MB, 512 kB): search, convert and export times.

.venv/bin/python benchmarks/mobilenet.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import tf_keras
from common import machine

import tfmix


def main() -> None:
    print(f"# {machine()}")
    budget = tfmix.Budget("2 MB", "512 kB")
    x = np.random.default_rng(0).uniform(-1, 1, (8, 224, 224, 3)).astype(np.float32)
    for build in (tf_keras.applications.MobileNet, tf_keras.applications.MobileNetV2):
        tf_keras.utils.set_random_seed(0)
        model = build(weights=None)
        start = time.time()
        qmodel = tfmix.quantize_model(model, budget, verbose=0)
        search = time.time() - start
        tfmix.calibrate(qmodel, x, method="ranges")
        start = time.time()
        with tempfile.TemporaryDirectory() as folder:
            path = tfmix.export(qmodel, Path(folder) / "model.tflite")
            size = path.stat().st_size
        export = time.time() - start
        report = tfmix.memory_report(qmodel, budget=budget)
        print(
            f"{model.name}: search and fake-quant model {search:.1f} s, convert and export "
            f"{export:.1f} s, file {size:,} B of {budget.flash:,}, arena {report.ram_bytes:,} B of "
            f"{budget.ram:,}, fits: {report.fits}"
        )


if __name__ == "__main__":
    main()
