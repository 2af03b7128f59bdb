"""The main job on real data, in two minutes: handwritten digits on a very small microcontroller.

Trains a CNN on scikit-learn's digits, gives it a FLASH and RAM budget that its 8-bit version
misses, fine-tunes the mixed-precision model, converts it to integers, exports `model.tflite`, reads
the file back and runs it with the C kernels. Run it with `make demo`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tf_keras  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

import tfmix  # noqa: E402

layers = tf_keras.layers

BUDGET = tfmix.Budget(flash="16 KiB", ram="8 KiB")


def load_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """1,797 real 8x8 digits, scaled up to 16x16: 1,297 to train on, 500 to test on."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[..., None] / 16
    images = images.repeat(2, axis=1).repeat(2, axis=2)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:-500], order[-500:]
    return (images[train], digits.target[train]), (images[test], digits.target[test])


def build_model() -> tf_keras.Model:
    """A small residual network with a depthwise block."""

    def conv(x, filters, kernel, strides=1, relu=True):
        x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return layers.ReLU()(x) if relu else x

    inputs = x = tf_keras.Input((16, 16, 1))
    x = shortcut = conv(x, 16, 3)
    x = conv(x, 16, 3)
    x = conv(x, 16, 3, relu=False)
    x = layers.ReLU()(layers.Add()([x, shortcut]))
    x = conv(x, 32, 3, strides=2)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = conv(x, 64, 1)
    x = conv(x, 24, 3, strides=2)
    x = layers.GlobalAveragePooling2D()(x)
    return tf_keras.Model(inputs, layers.Dense(10, activation="softmax")(x), name="digits")


class Progress(tf_keras.callbacks.Callback):
    """One line that tells how far training is."""

    def __init__(self, what: str):
        super().__init__()
        self.what = what

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        done = epoch + 1 == self.params["epochs"]
        print(
            f"\r{self.what}: epoch {epoch + 1}/{self.params['epochs']}, "
            f"training accuracy {logs['accuracy']:.1%}",
            end="\n" if done else "",
            flush=True,
        )


def train(model: tf_keras.Model, data, epochs: int, rate: float, what: str) -> None:
    x, y = data
    batch = 32
    schedule = tf_keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // batch))
    model.compile(
        tf_keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", ["accuracy"]
    )
    model.fit(x, y, batch, epochs, verbose=0, callbacks=[Progress(what)])


def accuracy(model, data) -> float:
    x, y = data
    options = {"verbose": 0} if isinstance(model, tf_keras.Model) else {}
    return float((model.predict(x, **options).argmax(axis=-1) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where files go")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    start = time.time()
    tf_keras.utils.set_random_seed(0)
    training, test = load_data()

    model = build_model()
    train(model, training, 15, 3e-3, "1/5 float training")

    print("2/5 choosing bits for", BUDGET)
    in_8_bits = tfmix.quantize_model(model, None, calibration_data=training[0], verbose=0)
    qmodel = tfmix.quantize_model(model, BUDGET, calibration_data=training[0])
    policy = tfmix.get_policy(qmodel)
    picture = tfmix.plot_policy(qmodel, policy, output / "bits.png", "digits: bits per tensor")
    train(qmodel, training, 20, 2e-3, "3/5 fine-tuning in mixed precision")

    print("4/5 converting to integers and exporting")
    path = tfmix.export(qmodel, output / "model.tflite")
    integer_model = tfmix.load(path)

    print("5/5 running the file with the C kernels")
    q = integer_model.run(integer_model.quantize(test[0]))
    exact = np.array_equal(q, integer_model.run(integer_model.quantize(test[0]), "reference"))
    agreement = np.mean(q.argmax(axis=-1) == qmodel.predict(test[0], verbose=0).argmax(axis=-1))

    alone = tfmix.Budget(BUDGET.flash, BUDGET.ram, streaming="off")  # no layers row by row
    eight = tfmix.memory_report(in_8_bits, budget=alone)
    ours = tfmix.memory_report(qmodel, budget=BUDGET)
    assert path.stat().st_size == ours.flash_bytes
    print(f"\n{'':24}{'accuracy':>9}{'FLASH':>10}{'of budget':>11}{'RAM':>9}{'of budget':>11}")
    print(f"{'float':24}{accuracy(model, test):>9.1%}")
    for name, score, report in (
        ("8 bits everywhere", accuracy(tfmix.convert(in_8_bits), test), eight),
        ("tfmix, mixed 2/4/8 bits", accuracy(integer_model, test), ours),
    ):
        print(
            f"{name:24}{score:>9.1%}{report.flash_bytes:>8,} B{report.flash_percent:>10.0f} %"
            f"{report.ram_bytes:>7,} B{report.ram_percent:>10.0f} %"
        )
    print(f"\ninteger and fake-quant model agree on {agreement:.1%} of the test images")
    print("C kernels and NumPy reference:", "identical" if exact else "DIFFERENT")
    print(f"wrote {path} and {picture} in {time.time() - start:.0f} s")
    if not exact:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
