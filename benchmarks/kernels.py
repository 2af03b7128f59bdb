"""Instructions, scratch and code size of the kernels on a Cortex-M7, as QEMU counts them.

    make bench-kernels

Every layer is run in every variant that matters, its output is compared with NumPy, and the whole
call is counted: unpacking, inner loop, requantize and store. Writes kernels.json beside this file.
Instructions are not cycles; cycles of the inner loops come from a model, see inner_loops.py.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import inner_loops
from kernel_cases import Shape, random_case
from target import (
    KERNEL_SOURCES,
    KERNELS,
    M7,
    PORTABLE,
    TOOLS,
    LinkedSizes,
    ToolMissing,
    build,
    command,
    compile_sources,
    require,
    run,
)
from target_cases import encode_case

from tfmix.integer.abi import parse_variant
from tfmix.integer.model import Kernel

RESULTS = Path(__file__).with_name("kernels.json")
RUNNER = sorted((KERNELS / "tests" / "target").glob("*.cc"))

# -- what is measured ---------------------------------------------------------------------------

WEIGHTED_TAGS = (
    *("a8w8o8_pc", "a8w4o8_pc", "a8w2o8_pc", "a8w8o8_pl"),
    *("a4w8o4_pc", "a4w4o4_pc", "a4w2o4_pc", "a2w8o2_pc", "a2w4o2_pc", "a2w2o2_pc"),
    *("a8w8o4_pc", "a8w4o4_pc", "a8w2o2_pc", "a4w8o8_pc", "a4w4o8_pc", "a2w8o8_pc", "a2w2o8_pc"),
)
#: For layers that are measured to learn how instructions depend on the shape.
WEIGHTED_SHAPE_TAGS = (
    *("a8w8o8_pc", "a8w4o8_pc", "a8w2o8_pc", "a4w4o4_pc", "a2w2o2_pc", "a2w8o8_pc"),
)
DEPTHWISE_SHAPE_TAGS = ("a8w8o8_pc", "a4w4o4_pc", "a2w2o2_pc")


@dataclass(frozen=True)
class Layer:
    """A shape, and the variants to run it in: the kernel's name with each of `tags`.

    Left shifts are as conversion chooses them: none for windows of few products.
    """

    name: str
    kernel: Kernel
    shape: Shape
    tags: tuple[str, ...] = WEIGHTED_TAGS


LAYERS = (
    Layer(
        "a: 1x1 24x24x16->32",
        Kernel.CONV2D,
        Shape((24, 24), 16, 32, kernel=(1, 1), output=(24, 24), left_shift=0),
    ),
    Layer(
        "b: 1x1 6x6x512->512",
        Kernel.CONV2D,
        Shape((6, 6), 512, 512, kernel=(1, 1), output=(6, 6), left_shift=4),
    ),
    Layer(
        "c: 3x3 16x16x32->32",
        Kernel.CONV2D,
        Shape((16, 16), 32, 32, kernel=(3, 3), padding=(1, 1), output=(16, 16), left_shift=4),
    ),
    Layer(
        "d: 3x3 s2 48x48x3->16",
        Kernel.CONV2D,
        Shape((48, 48), 3, 16, kernel=(3, 3), strides=(2, 2), output=(24, 24), left_shift=4),
    ),
    Layer(
        "e: depthwise 3x3 24x24x128",
        Kernel.DEPTHWISE_CONV2D,
        Shape((24, 24), 128, 128, kernel=(3, 3), padding=(1, 1), output=(24, 24), left_shift=0),
    ),
    Layer("f: 1024->1000", Kernel.FULLY_CONNECTED, Shape((1, 1), 1024, 1000, left_shift=4)),
    Layer(
        "g: 3x3 20x20x8->24",
        Kernel.CONV2D,
        Shape((20, 20), 8, 24, kernel=(3, 3), padding=(1, 1), output=(20, 20), left_shift=2),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "h: 1x1 5x5x64->128",
        Kernel.CONV2D,
        Shape((5, 5), 64, 128, kernel=(1, 1), output=(5, 5), left_shift=2),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "i: 5x5 s2 28x28x1->12",
        Kernel.CONV2D,
        Shape(
            *((28, 28), 1, 12),
            kernel=(5, 5),
            strides=(2, 2),
            padding=(1, 1),
            output=(14, 14),
            left_shift=2,
        ),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "j: depthwise 3x3 32x32x24",
        Kernel.DEPTHWISE_CONV2D,
        Shape((32, 32), 24, 24, kernel=(3, 3), padding=(1, 1), output=(32, 32), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "k: depthwise 3x3 s2 40x40x32",
        Kernel.DEPTHWISE_CONV2D,
        Shape((40, 40), 32, 32, kernel=(3, 3), strides=(2, 2), output=(20, 20), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "l: depthwise 3x3 s2 10x10x64",
        Kernel.DEPTHWISE_CONV2D,
        Shape((10, 10), 64, 64, kernel=(3, 3), strides=(2, 2), output=(5, 5), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "m: depthwise 3x3 5x5x160",
        Kernel.DEPTHWISE_CONV2D,
        Shape((5, 5), 160, 160, kernel=(3, 3), padding=(1, 1), output=(5, 5), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "n: depthwise 5x5 20x20x48",
        Kernel.DEPTHWISE_CONV2D,
        Shape((20, 20), 48, 48, kernel=(5, 5), padding=(2, 2), output=(20, 20), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "o: depthwise 9x1 40x1x40, valid",
        Kernel.DEPTHWISE_CONV2D,
        Shape((40, 1), 40, 40, kernel=(9, 1), output=(32, 1), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "r: 1x1 2x1x48->96",
        Kernel.CONV2D,
        Shape((2, 1), 48, 96, kernel=(1, 1), output=(2, 1), left_shift=2),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "s: 8x4 s2 40x12x1->32, valid",
        Kernel.CONV2D,
        Shape((40, 12), 1, 32, kernel=(8, 4), strides=(2, 2), output=(17, 5), left_shift=2),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "t: depthwise 3x3 30x6x48",
        Kernel.DEPTHWISE_CONV2D,
        Shape((30, 6), 48, 48, kernel=(3, 3), padding=(1, 1), output=(30, 6), left_shift=0),
        DEPTHWISE_SHAPE_TAGS,
    ),
    Layer(
        "p: 256->64",
        Kernel.FULLY_CONNECTED,
        Shape((1, 1), 256, 64, left_shift=4),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "q: 32->10",
        Kernel.FULLY_CONNECTED,
        Shape((1, 1), 32, 10, left_shift=2),
        WEIGHTED_SHAPE_TAGS,
    ),
    Layer(
        "add 16x16x64",
        Kernel.ADD,
        Shape((16, 16), 64),
        ("a8b8o8", "a4b4o4", "a2b2o2", "a8b4o8", "a4b8o4", "a8b2o8"),
    ),
    Layer(
        "multiply 14x14x96 by channel",
        Kernel.MULTIPLY,
        Shape((14, 14), 96, left_shift=0, same=False),
        ("a8b8o8", "a4b8o4", "a2b2o2", "a8b8o4", "a4b8o8", "a8b2o8"),
    ),
    Layer(
        "multiply 14x14x96 by element",
        Kernel.MULTIPLY,
        Shape((14, 14), 96, left_shift=0, same=True),
        ("a8b8o8", "a4b4o4"),
    ),
    Layer(
        "lookup 672", Kernel.LOOKUP, Shape((1, 1), 672), ("a8o8", "a4o4", "a2o2", "a8o4", "a4o8")
    ),
    Layer(
        "average pool 8x8x64, global",
        Kernel.AVERAGE_POOL,
        Shape((8, 8), 64, kernel=(8, 8)),
        ("a8o8", "a4o4", "a2o2", "a4o8"),
    ),
    Layer(
        "average pool 2x2 16x16x64",
        Kernel.AVERAGE_POOL,
        Shape((16, 16), 64, kernel=(2, 2), strides=(2, 2), output=(8, 8)),
        ("a8o8", "a4o4", "a2o2"),
    ),
    Layer(
        "max pool 2x2 16x16x64",
        Kernel.MAX_POOL,
        Shape((16, 16), 64, kernel=(2, 2), strides=(2, 2), output=(8, 8)),
        ("a8", "a4", "a2"),
    ),
    Layer(
        "max pool 8x8x64, global",
        Kernel.MAX_POOL,
        Shape((8, 8), 64, kernel=(8, 8)),
        ("a8", "a4", "a2"),
    ),
    Layer(
        "requantize 16x16x64",
        Kernel.REQUANTIZE,
        Shape((16, 16), 64),
        ("a8o8", "a8o4", "a8o2", "a4o8", "a2o8"),
    ),
    Layer("softmax 10", Kernel.SOFTMAX, Shape((1, 1), 10), ("a8o8",)),
    Layer("softmax 100", Kernel.SOFTMAX, Shape((1, 1), 100), ("a8o8",)),
)


@dataclass(frozen=True)
class Result:
    """One row of the table.

    work: MACs of a kernel with weights, padding counted; else elements that are read, for add,
    multiply, lookup, requantize and softmax those of the output
    scratch, text: bytes; text is the flash that this one variant adds to a program, without prepare
    """

    op: str
    layer: str
    variant: str
    instructions: int
    work: int
    unit: str
    instructions_per_unit: float
    scratch: int
    text: int


def work(layer: Layer) -> tuple[int, str]:
    s = layer.shape
    if layer.kernel is Kernel.CONV2D:
        return math.prod((*s.output, s.output_channels, *s.kernel, s.channels)), "MAC"
    if layer.kernel is Kernel.DEPTHWISE_CONV2D:
        return math.prod((*s.output, s.output_channels, *s.kernel)), "MAC"
    if layer.kernel is Kernel.FULLY_CONNECTED:
        return s.channels * s.output_channels, "MAC"
    if s.kernel:
        return math.prod((*s.output, s.channels, *s.kernel)), "element"
    return math.prod((*s.plane, s.channels)), "element"


def pairs(only: str) -> Iterator[tuple[Layer, str]]:
    """Layers and their variants, as far as "<layer> <variant>" matches `only`."""
    for layer in LAYERS:
        for tag in layer.tags:
            variant = f"{layer.kernel.value}_{tag}"
            parse_variant(variant)
            if re.search(only, f"{layer.name} {variant}"):
                yield layer, variant


# -- measuring ----------------------------------------------------------------------------------


def measure(
    selected: list[tuple[Layer, str]], kernels: list[Path], directory: Path
) -> list[Result]:
    """kernels: object files."""
    elf = build(RUNNER, M7, directory / "runner", objects=kernels)
    with elf.with_name("cases.bin").open("wb") as file:
        for layer, variant in selected:
            rng = np.random.default_rng(zlib.crc32(variant.encode()))
            file.write(encode_case(variant, random_case(variant, rng, layer.shape)))
    *lines, summary = run(elf, M7).text.splitlines()
    wrong = [line for line in lines if not line.endswith(" ok")]
    if wrong or len(lines) != len(selected):
        raise SystemExit("\n".join([*wrong, summary]))
    linked = LinkedSizes(kernels, M7, directory / "linked")
    text = {variant: linked(f"tfmix_{variant}") for _, variant in selected}
    results = []
    for (layer, variant), line in zip(selected, lines, strict=True):
        name, instructions, scratch, _ = line.split()
        assert name == variant
        amount, unit = work(layer)
        results.append(
            Result(
                op=layer.kernel.value,
                layer=layer.name,
                variant=variant,
                instructions=int(instructions),
                work=amount,
                unit=unit,
                instructions_per_unit=round(int(instructions) / amount, 4),
                scratch=int(scratch),
                text=text[variant],
            )
        )
    return results


def show(results: list[Result]) -> None:
    layer = None
    for r in results:
        if r.layer != layer:
            layer = r.layer
            print(f"\n{layer}")
            print(f"  {'variant':28}{'instructions':>14}{'per ' + r.unit:>13}", end="")
            print(f"{'scratch':>9}{'.text':>7}")
        print(f"  {r.variant:28}{r.instructions:14,}{r.instructions_per_unit:13.3f}", end="")
        print(f"{r.scratch:9,}{r.text:7,}")


def merged(results: list[Result]) -> list[Result]:
    """All rows there are of LAYERS, in their order: the new ones, else those of the file."""
    known = {
        (row["layer"], row["variant"]): Result(**row)
        for row in json.loads(RESULTS.read_text())["kernels"]
    }
    known |= {(result.layer, result.variant): result for result in results}
    keys = [(layer.name, variant) for layer, variant in pairs("")]
    return [known[key] for key in keys if key in known]


def inner_loop_rows(kernels: list[Path]) -> list[dict[str, object]]:
    """Modelled cycles; says what is missing where it can say nothing."""
    print("\ninner loops, cycles as llvm-mca models a Cortex-M7")
    try:
        loops = inner_loops.model_all(kernels)
    except (ToolMissing, RuntimeError) as error:
        print(f"  {error}: skipped")
        return []
    print(f"  {'instructions':>12}{'MACs':>6}{'cycles':>8}{'a MAC':>8}")
    for loop in loops:
        print(f"  {loop.instructions:12}{loop.macs:6}{loop.cycles:8.1f}", end="")
        print(f"{loop.cycles_per_mac:8.3f}  {loop.name}")
    return [asdict(loop) for loop in loops]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="only layers and variants that match")
    parser.add_argument(
        "--merge", action="store_true", help="with --only: their rows replace those in kernels.json"
    )
    parser.add_argument("--portable", action="store_true", help="the portable path, not written")
    options = parser.parse_args()
    try:
        require(*TOOLS)
    except ToolMissing as missing:
        raise SystemExit(f"{missing}: kernels cannot be measured") from None
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        selected = list(pairs(options.only))
        flags = PORTABLE if options.portable else ()
        kernels = compile_sources(KERNEL_SOURCES, M7, directory / "kernels", flags)
        results = measure(selected, kernels, directory)
        show(results)
        loops = [] if options.only else inner_loop_rows(kernels)
    print(f"\n{len(results)} calls in {time.monotonic() - start:.0f} s")
    if options.portable or (options.only and not options.merge):
        return
    if options.only:
        results = merged(results)
        loops = json.loads(RESULTS.read_text())["inner_loops_modelled_by_llvm_mca"]
    report = {
        "machine": f"QEMU {M7.machine} ({M7.cpu}), executed instructions, not cycles",
        "compiler": command("arm-none-eabi-gcc", "--version").splitlines()[0],
        "flags": M7.flags,
        "kernels": [asdict(result) for result in results],
        "inner_loops_modelled_by_llvm_mca": loops,
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {RESULTS.name}")


if __name__ == "__main__":
    main()
