"""Whole networks through the C export on a Cortex-M7, as QEMU counts instructions.

Five networks of MLPerf Tiny at 8 bits, and ResNet-8 with 4- and 2-bit weights and activations.
Calibrated, not trained: instructions do not depend on accuracy. Each must compute on the board what
it computes on this machine. Prints a table and writes networks.json.

    make bench-networks
    .venv/bin/python benchmarks/networks.py [--networks resnet8 ds_cnn] [--layers]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tf_keras
from common import DATA, load_cifar10, load_model, require_data

import tfmix
from tfmix.integer.lower import lower
from tfmix.integer.model import IntegerNetwork
from tfmix.ir.graph import as_graph

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from network_on_target import (  # noqa: E402
    build_firmware,
    compile_kernels,
    macs,
    node_macs,
    run_firmware,
    scratch,
)
from target import M7, TOOLS, ToolMissing, command, require  # noqa: E402

IMAGES = 2  # run on the board and compared with this machine
CALIBRATION = 64


@dataclass(frozen=True)
class Peer:
    """One Invoke of TensorFlow Lite Micro (2026-08) with CMSIS-NN at its best flags, 8 bits, in the
    same QEMU with the same counter and compiler: shared/prototypes/README.md.

    per_mac: instructions per multiply-accumulate; arena: bytes
    """

    instructions: float
    per_mac: float
    arena: int


@dataclass(frozen=True)
class Case:
    """A network to measure. target: instructions per MAC that it should need at most."""

    name: str
    model: str
    inputs: Callable[[tf_keras.Model], np.ndarray]
    target: float | None
    peer: Peer | None
    weight_bits: tuple[int, ...] = (8,)
    activation_bits: tuple[int, ...] = (8,)


@dataclass(frozen=True)
class LayerResult:
    """One kernel call. per_mac: of a layer with weights; per_element: instructions per output."""

    name: str
    variant: str
    macs: int
    instructions: int
    per_mac: float | None
    per_element: float


@dataclass(frozen=True)
class Result:
    """Bytes, and instructions of one inference.

    file: the .tflite file; constants: weights and parameters of the C network; code: of the linked
    kernels; stack: of the whole program; per_mac: instructions per multiply-accumulate
    """

    name: str
    macs: int
    instructions: int
    per_mac: float
    target: float | None
    peer_per_mac: float | None
    arena: int
    peer_arena: int | None
    scratch: int
    file: int
    constants: int
    code: int
    stack: int
    exact: bool
    layers: tuple[LayerResult, ...]


# -- inputs -------------------------------------------------------------------------------------


def cifar10(_: tf_keras.Model) -> np.ndarray:
    return load_cifar10("dev", CALIBRATION)[0]


def keywords(_: tf_keras.Model) -> np.ndarray:
    data = np.load(DATA / "kws_dev.npz")
    q = data["inputs"][:CALIBRATION].astype(np.float32)
    return (q - np.float32(data["zero_point"])) * np.float32(data["scale"])


def uniform(model: tf_keras.Model) -> np.ndarray:
    """Stand-ins where there is no data: numbers in 0..1."""
    shape = (CALIBRATION, *model.input_shape[1:])
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


RESNET8 = ("resnet8_cifar10_jpeg_ft", cifar10)
CASES = (
    Case("resnet8", *RESNET8, 1.20, Peer(28.6e6, 2.291, 55_092)),
    Case("resnet8_4_2", *RESNET8, None, None, (4, 2), (4, 2)),
    Case("ds_cnn", "kws_ref_model", keywords, 1.40, Peer(7.22e6, 2.719, 22_820)),
    Case("vww", "vww_96", uniform, 1.40, Peer(22.7e6, 3.029, 100_708)),
    Case("str_ww", "str_ww_ref_model", uniform, 1.15, Peer(2.10e6, 2.540, 16_596)),
    Case("ad01", "ad01", uniform, 1.35, Peer(0.574e6, 2.172, 2_580)),
)
#: A mixed network may need this many times the instructions of its 8-bit self.
MIXED_TARGET = ("resnet8_4_2", "resnet8", 1.05)


# -- measuring ----------------------------------------------------------------------------------


def alternating_policy(model: tf_keras.Model, case: Case) -> tfmix.QuantizationPolicy:
    """The case's bits in turn, layer by layer; input and logits stay at 8."""
    graph = as_graph(model)
    free = [t for t in graph.quantized_tensors if t not in graph.fixed_tensors]
    weighted = [node.name for node in graph.weighted_nodes]
    policy = tfmix.QuantizationPolicy.uniform(model, 8)
    w, a = case.weight_bits, case.activation_bits
    return tfmix.QuantizationPolicy(
        {name: w[i % len(w)] for i, name in enumerate(weighted)},
        {**policy.activation_bits, **{name: a[i % len(a)] for i, name in enumerate(free)}},
    )


def measure(case: Case, kernels: list[Path], directory: Path) -> Result:
    model = load_model(case.model)
    x = case.inputs(model)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    tfmix.set_policy(qmodel, alternating_policy(qmodel, case))
    integer_model = tfmix.convert(qmodel)
    file = tfmix.export(integer_model, directory / f"{case.name}.tflite")
    firmware = build_firmware(integer_model, kernels, M7, directory / case.name)
    q = integer_model.quantize(x[:IMAGES])
    outcome = run_firmware(firmware, q)
    profile = build_firmware(
        integer_model, kernels, M7, directory / f"{case.name}_profile", profile=True
    )
    layers = run_firmware(profile, q[:1]).layers
    network, instructions = integer_model.network, int(outcome.instructions.max())
    return Result(
        name=case.name,
        macs=macs(network),
        instructions=instructions,
        per_mac=round(instructions / macs(network), 3),
        target=case.target,
        peer_per_mac=case.peer and case.peer.per_mac,
        arena=firmware.arena,
        peer_arena=case.peer and case.peer.arena,
        scratch=scratch(network),
        file=file.stat().st_size,
        constants=firmware.model,
        code=firmware.kernels,
        stack=outcome.stack,
        exact=bool(np.array_equal(outcome.outputs, integer_model.run(q))),
        layers=tuple(layer_results(network, layers)),
    )


def layer_results(network: IntegerNetwork, counts: tuple[int, ...]) -> Iterator[LayerResult]:
    for node, count in zip(network.nodes, counts, strict=True):
        products = node_macs(node)
        yield LayerResult(
            name=node.name,
            variant=lower(node, network.tensors, zero_constants=True).variant,
            macs=products,
            instructions=count,
            per_mac=round(count / products, 3) if products else None,
            per_element=round(count / math.prod(node.output_shape), 2),
        )


# -- reporting ----------------------------------------------------------------------------------

_HEAD = (
    f"{'network':12}{'M MACs':>8}{'M instr.':>10}{'per MAC':>9}{'target':>8}{'TFLM':>7}"
    f"{'arena B':>10}{'TFLM':>9}{'scratch':>9}{'file B':>9}{'code B':>8}{'stack':>7}"
)


def line(result: Result) -> str:
    def number(value: float | None, width: int, form: str = ",") -> str:
        return f"{'-' if value is None else format(value, form):>{width}}"

    r = result
    return (
        f"{r.name:12}{r.macs / 1e6:>8.2f}{r.instructions / 1e6:>10.2f}{r.per_mac:>9.3f}"
        f"{number(r.target, 8, '.2f')}{number(r.peer_per_mac, 7, '.3f')}{r.arena:>10,}"
        f"{number(r.peer_arena, 9)}{r.scratch:>9,}{r.file:>9,}{r.code:>8,}{r.stack:>7,}"
        f"{'' if r.exact else '  OUTPUTS DIFFER'}"
    )


def layer_line(layer: LayerResult) -> str:
    per = f"{layer.per_mac:.3f} per MAC" if layer.per_mac else f"{layer.per_element:.2f} an element"
    return f"  {layer.variant:28}{layer.instructions:>12,}  {per:18} {layer.name}"


def ratio_to_8_bits(results: list[Result]) -> float | None:
    """Instructions of the mixed network over those of its 8-bit self, if both were measured."""
    by_name = {result.name: result.instructions for result in results}
    mixed, plain, _ = MIXED_TARGET
    return by_name[mixed] / by_name[plain] if {mixed, plain} <= by_name.keys() else None


def main() -> None:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--layers", action="store_true", help="print each layer too")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("networks.json"))
    args = parser.parse_args()
    require_data()
    try:
        require(*TOOLS)
    except ToolMissing as missing:
        raise SystemExit(f"bench-networks: {missing}") from missing
    start = time.time()
    compiler = command("arm-none-eabi-g++", "--version").splitlines()[0]
    print(f"# {M7.machine} ({M7.cpu}), {compiler}, {' '.join(M7.flags)}")
    print("# TFLM: TensorFlow Lite Micro (2026-08) with CMSIS-NN at 8 bits, in the same QEMU")
    print(_HEAD)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        kernels = compile_kernels(M7, directory)
        for case in CASES:
            if case.name in args.networks:
                results.append(measure(case, kernels, directory))
                print(line(results[-1]), flush=True)
                if args.layers:
                    print("\n".join(map(layer_line, results[-1].layers)), flush=True)
    ratio = ratio_to_8_bits(results)
    if ratio is not None:
        mixed, plain, limit = MIXED_TARGET
        print(f"{mixed} needs {ratio:.3f} x the instructions of {plain}, target {limit:.2f}")
    args.output.write_text(
        json.dumps(
            {
                "machine": M7.machine,
                "compiler": compiler,
                "flags": " ".join(M7.flags),
                "mixed_to_8_bits": ratio and round(ratio, 4),
                "networks": [asdict(result) for result in results],
            },
            indent=1,
        )
        + "\n"
    )
    print(f"wrote {args.output} in {time.time() - start:.0f} s")
    if not all(result.exact for result in results):
        raise SystemExit("bench-networks: outputs differ from those of this machine")


if __name__ == "__main__":
    main()
