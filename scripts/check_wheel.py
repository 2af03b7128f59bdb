"""From float model to C program with an installed tfmix. Run by scripts/check_wheel.sh.

Runs in an empty directory outside the checkout, in an environment that has the wheel and what it
depends on, and nothing else.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import tf_keras

import tfmix

layers = tf_keras.layers

DRIVER = r"""
#include <stdio.h>
#include "network.h"

int main(void) {
  if (network_init() != TFMIX_OK) return 1;
  while (fread(network_input(), NETWORK_INPUT_BYTES, 1, stdin) == 1) {
    network_invoke();
    fwrite(network_output(), NETWORK_OUTPUT_BYTES, 1, stdout);
  }
  return 0;
}
"""


def tiny_model() -> tf_keras.Model:
    tf_keras.utils.set_random_seed(0)
    return tf_keras.Sequential(
        [
            tf_keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax"),
        ]
    )


def run_c_network(model: tfmix.IntegerModel, q: np.ndarray) -> np.ndarray:
    """Outputs of the exported C network, compiled with the installed kernels."""
    _, source, variants = tfmix.export_c(model, "network", name="network")
    kernels = tfmix.kernels_directory()
    Path("driver.c").write_text(DRIVER)
    include = [f"-I{kernels / 'include'}", f"-I{source.parent}"]
    subprocess.run(["gcc", "-c", "-std=c99", "-Wall", "-Werror", *include, source], check=True)
    subprocess.run(["gcc", "-c", "-std=c99", "-Wall", "-Werror", *include, "driver.c"], check=True)
    sources = sorted((kernels / "src").glob("*.cc"))
    flags = ["-std=c++17", "-O1", "-fno-exceptions", "-fno-rtti", "-include", variants.resolve()]
    objects = ["network.o", "driver.o"]
    subprocess.run(["g++", *flags, *include, *sources, *objects, "-o", "network.elf"], check=True)
    done = subprocess.run(["./network.elf"], input=q.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(len(q), *model.output_shape)


def main() -> None:
    package = Path(tfmix.__file__).parent
    assert (package / "py.typed").is_file() and "site-packages" in package.parts, package
    x = np.random.default_rng(0).uniform(0, 1, (64, 12, 12, 3)).astype(np.float32)
    in_8_bits = tfmix.quantize_model(tiny_model(), None, calibration_data=x, verbose=0)
    report = tfmix.memory_report(in_8_bits)
    budget = tfmix.Budget(flash=report.flash_bytes, ram=report.ram_bytes * 3 // 4)
    qmodel = tfmix.quantize_model(tiny_model(), budget, calibration_data=x, verbose=0)
    path = tfmix.export(qmodel, "model.tflite", resolver="model_ops.h")
    print(f"tfmix {tfmix.__version__}: {path}, {path.stat().st_size:,} B")

    model = tfmix.load(path)
    q = model.quantize(x)
    outputs = model.run(q)
    assert np.array_equal(outputs, model.run(q, "reference"))
    print("C kernels and NumPy reference: identical")

    interpreter = tfmix.interpreter(path)
    for image, expected in zip(q[:4], outputs[:4], strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert np.array_equal(found[0], expected)
    print("TensorFlow Lite interpreter with the delegate: identical")

    assert np.array_equal(run_c_network(model, q), outputs)
    print("C network, compiled with the installed kernels: identical")


if __name__ == "__main__":
    main()
