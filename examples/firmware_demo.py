"""Two mixed-precision networks as firmware of a Cortex-M7 with exactly a budget's FLASH and RAM.

The network of the demo (16 KiB, 8 KiB) and ResNet-8 for CIFAR-10 (48 kB, 36 kB) become C networks
(tfmix.export_c), are linked with the kernels for the mps2-an500 board and run under QEMU on real
images. Run it with `make firmware-demo`; it needs arm-none-eabi-g++ and qemu-system-arm.

The budget is that of the network: the linker gives weights and parameters exactly the budget's
FLASH, and the arena exactly its RAM, so that what exceeds it does not link. The budget was met with
an interpreter's tables included, which a C network does not have, so that something is left of it.
Code and stack have regions of their own, and their sizes are printed beside.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tf_keras  # noqa: E402

import tfmix  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
import common  # noqa: E402
import digits  # noqa: E402
from network_on_target import (  # noqa: E402
    CODE_SIZE,
    STACK_SIZE,
    Firmware,
    Outcome,
    build_firmware,
    compile_kernels,
    macs,
    run_firmware,
)
from target import M7, TOOLS, ToolMissing, require  # noqa: E402

RESNET8_BUDGET = tfmix.Budget(flash="48 kB", ram="36 kB")
CALIBRATION, TUNING = 512, 10_000  # images of ResNet-8


Network = tuple[str, tfmix.Budget, tfmix.IntegerModel, np.ndarray, np.ndarray]


def demo_network(output: Path) -> Network:
    """What `make demo` has exported; the demo runs first where that is missing."""
    path = output / "model.tflite"
    try:
        model = tfmix.load(path)
    except tfmix.FormatError:
        print(f"digits: {path} comes from the demo, which takes a minute", flush=True)
        demo = Path(digits.__file__)
        subprocess.run(
            [sys.executable, demo, "--output", output], check=True, stdout=subprocess.DEVNULL
        )
        model = tfmix.load(path)
    _, (x, labels) = digits.load_data()
    return "digits", digits.BUDGET, model, x, labels


def resnet8() -> Network:
    """ResNet-8 in its budget, tuned for one short epoch."""
    print(f"resnet8: tuning on {TUNING:,} images of CIFAR-10", flush=True)
    tf_keras.utils.set_random_seed(0)
    x, labels = common.load_cifar10("train", TUNING)
    qmodel = tfmix.quantize_model(
        common.load_model("resnet8_cifar10_jpeg_ft"),
        RESNET8_BUDGET,
        calibration_data=x[:CALIBRATION],
        verbose=0,
    )
    qmodel.compile(tf_keras.optimizers.Adam(5e-4), "sparse_categorical_crossentropy")
    qmodel.fit(x, labels, 64, verbose=0)
    return "resnet8", RESNET8_BUDGET, tfmix.convert(qmodel), *common.load_cifar10("dev", 1000)


def networks(output: Path) -> Iterator[Network]:
    yield demo_network(output)
    if common.DATA.is_dir():
        yield resnet8()
    else:
        print(f"resnet8: skipped, there is no data at {common.DATA} (set TFMIX_DATA)")


def report(
    network: Network, firmware: Firmware, outcome: Outcome, q: np.ndarray, seconds: float
) -> bool:
    """Prints what the board did; returns whether its outputs are those of this machine."""
    name, budget, model, _, labels = network
    here = model.run(q)
    identical = np.array_equal(outcome.outputs, here)
    on_board, on_host = (
        float((scores.argmax(axis=-1) == labels[: len(q)]).mean())
        for scores in (outcome.outputs, here)
    )
    count, products = int(outcome.instructions.mean()), macs(model.network)
    print(f"\n{name} on {M7.machine} ({M7.cpu}), {len(q)} images, {seconds:.0f} s under QEMU")
    print(
        f"  accuracy      {on_board:.1%}; on this machine {on_host:.1%}, "
        f"outputs {'identical' if identical else 'DIFFERENT'}"
    )
    print(
        f"  instructions  {count:,} an inference, {count / products:.2f} per MAC "
        f"({products:,} MACs); init {outcome.init_instructions:,}"
    )
    for what, used, limit in (
        ("FLASH", firmware.model, budget.flash),
        ("RAM", firmware.arena, budget.ram),
    ):
        content = "weights and parameters" if what == "FLASH" else "arena"
        print(f"  {what:<12}  {used:,} B of {limit:,} B: {content}")
    print(
        f"  code          {firmware.code:,} B of {CODE_SIZE:,} B: kernels {firmware.kernels:,} "
        f"({len(firmware.variants)} variants), network {firmware.calls:,}, start-up, "
        f"semihosting and C library {firmware.rest:,}"
    )
    print(f"  stack         {outcome.stack:,} B of {STACK_SIZE:,} B", flush=True)
    return identical


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100, help="images to run on the board")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="of make demo")
    args = parser.parse_args()
    try:
        require(*TOOLS)
    except ToolMissing as missing:
        raise SystemExit(
            f"firmware-demo: {missing}; on Debian: apt-get install gcc-arm-none-eabi "
            "libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib qemu-system-arm"
        ) from missing
    identical = True
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        kernels = compile_kernels(M7, directory)
        for network in networks(args.output):
            name, budget, model, x, _ = network
            firmware = build_firmware(model, kernels, M7, directory / name, budget)
            q = model.quantize(x[: args.images])
            start = time.time()
            outcome = run_firmware(firmware, q)
            identical &= report(network, firmware, outcome, q, time.time() - start)
    if not identical:
        raise SystemExit("firmware-demo: outputs differ from those of this machine")


if __name__ == "__main__":
    main()
