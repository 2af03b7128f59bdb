"""The bridge in TensorFlow Lite Micro, on this machine and on a Cortex-M7 under QEMU.

`make test-tflm` runs it. TFLM is not part of this repository: tests/tflm_programs.py says which
variables name it. What is not named is skipped, and the reason says which variable is missing.
"""

from __future__ import annotations

import os
import re
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integer_models import random_model
from kernel_cases import random_case
from random_chains import random_chain
from target import (
    BOARD_SOURCES,
    KERNEL_SOURCES,
    M7,
    ToolMissing,
    command,
    compile_sources,
    link,
    text_size,
)
from tflm_cases import ModelCase, of_model, of_node
from tflm_fuzzing import compile_target, read_corpus
from tflm_programs import (
    BRIDGE_SOURCES,
    TESTS,
    Program,
    TflmMissing,
    board_program,
    has_header,
    host_program,
    include_flags,
    library,
)

import tfmix
from tfmix.export import tflite
from tfmix.export.flatbuffer import serialize
from tfmix.export.op_resolver import arena_bytes, census_of, resolver_source
from tfmix.integer.abi import all_variants
from tfmix.integer.inference import IntegerModel
from tfmix.integer.lower import lower
from tfmix.integer.schedule import schedule_of
from tfmix.integer.stream import lower_chain
from tfmix.ir.graph import as_graph
from tfmix.policy.cost.arena import plan

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TFMIX_DATA", ROOT.parent / "shared" / "data"))
MODELS = ("ad01", "kws_ref_model", "resnet8_cifar10_jpeg_ft", "str_ww_ref_model", "vww_96")
BITS = {"8": (8,), "4": (4,), "2": (2,), "mixed": (4, 2, 8)}
CASES_PER_VARIANT = 4


def _or_skip(make: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except (TflmMissing, ToolMissing) as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Program:
    return _or_skip(host_program, tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Program:
    return _or_skip(board_program, tmp_path_factory.mktemp("board"))


@pytest.fixture(params=["host", "board"])
def program(request) -> Program:
    return request.getfixturevalue(request.param)


# -- equal to the reference -----------------------------------------------------------------------


@cache
def _variant_cases() -> tuple[ModelCase, ...]:
    cases = []
    for variant in all_variants():
        for index in range(CASES_PER_VARIANT):
            rng = np.random.default_rng((zlib.crc32(variant.encode()), index))
            cases.append(of_node(f"{variant}.{index}", random_case(variant, rng)))
    return tuple(cases)


def test_every_variant(program):
    verdicts = program(_variant_cases())
    assert len(verdicts) == CASES_PER_VARIANT * 253
    assert [(name, v) for name, v in verdicts.items() if v.result != "ok"] == []


@cache
def _random_networks() -> dict[str, IntegerModel]:
    return {f"random.{seed}": IntegerModel(random_model(seed, nodes=8)) for seed in range(30)}


def test_random_networks(program):
    models = _random_networks()
    verdicts = program([of_model(name, model) for name, model in models.items()])
    assert {v.result for v in verdicts.values()} == {"ok"}
    if program.on_board:
        _assert_predicted(models, verdicts)


@cache
def _random_chains() -> dict[str, IntegerModel]:
    return {f"chain.{seed}": IntegerModel(random_chain(seed)) for seed in range(60)}


def test_random_chains(program):
    models = _random_chains()
    verdicts = program([of_model(name, model) for name, model in models.items()])
    assert [(name, v) for name, v in verdicts.items() if v.result != "ok"] == []
    if program.on_board:
        _assert_predicted(models, verdicts)


def _model(name: str) -> Any:
    import tf_keras

    if name != "mobilenet_v1":
        return tf_keras.models.load_model(DATA / "models" / f"{name}.h5", compile=False)
    tf_keras.utils.set_random_seed(0)
    return tf_keras.applications.MobileNet((128, 128, 3), alpha=0.25, weights=None)


def _policy(qmodel: Any, bits: tuple[int, ...]) -> tfmix.QuantizationPolicy:
    """`bits` in turn, layer by layer; input and logits stay at 8."""
    graph = as_graph(qmodel)
    free = [tensor for tensor in graph.quantized_tensors if tensor not in graph.fixed_tensors]
    activations = tfmix.QuantizationPolicy.uniform(qmodel, 8).activation_bits
    return tfmix.QuantizationPolicy(
        {node.name: bits[i % len(bits)] for i, node in enumerate(graph.weighted_nodes)},
        {**activations, **{name: bits[(i + 1) % len(bits)] for i, name in enumerate(free)}},
    )


@cache
def _models_of(name: str) -> tuple[dict[str, IntegerModel], dict[str, int], list[ModelCase]]:
    """The integer models at all BITS, what memory_report says of their RAM, and their cases."""
    model = _model(name)
    x = np.random.default_rng(0).uniform(0, 1, (4, *model.input_shape[1:])).astype(np.float32)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    models, ram, cases = {}, {}, []
    for label, bits in BITS.items():
        tfmix.set_policy(qmodel, _policy(qmodel, bits))
        key = f"{name}.{label}"
        models[key] = tfmix.convert(qmodel)
        ram[key] = tfmix.memory_report(qmodel).ram_bytes
        cases.append(of_model(key, models[key]))
    return models, ram, cases


@pytest.mark.parametrize("name", [*MODELS, "mobilenet_v1"])
def test_models(name, program):
    if name in MODELS and not DATA.is_dir():
        pytest.skip(f"no data at {DATA}; set TFMIX_DATA")
    models, ram, cases = _models_of(name)
    verdicts = program(cases)
    assert {v.result for v in verdicts.values()} == {"ok"}
    for key, verdict in verdicts.items():
        where = "board" if program.on_board else "host"
        print(f"{key:32} {where}: arena {verdict.arena:,} B, predicted for the board {ram[key]:,}")
    if program.on_board:
        _assert_predicted(models, verdicts)
        assert {key: verdict.arena for key, verdict in verdicts.items()} == ram


def test_a_budget_holds(board):
    """MobileNetV1 0.75 224 in 2 MB of FLASH and 512 kB of RAM."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    model = tf_keras.applications.MobileNet((224, 224, 3), alpha=0.75, weights=None)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    budget = tfmix.Budget("2 MB", "512 kB")
    qmodel = tfmix.quantize_model(model, budget, calibration_data=x, verbose=0)
    case = of_model("mobilenet_v1", tfmix.convert(qmodel), runs=1)
    verdict = board([case])["mobilenet_v1"]
    print(f"MobileNetV1 0.75 224: file {len(case.content):,} B, arena {verdict.arena:,} B")
    assert verdict.result == "ok"
    assert verdict.arena == tfmix.memory_report(qmodel).ram_bytes
    assert len(case.content) <= budget.flash and verdict.needs <= budget.ram


STREAMED = {
    "MobileNet": ({"alpha": 0.25}, (40_000, 31_000)),
    "MobileNetV2": ({"alpha": 0.35}, (60_000, 50_000)),
}


@pytest.mark.parametrize("name", STREAMED)
def test_chains_hold_a_budget(name, program):
    """Activations of 8 bits in a third of the RAM: the arena is the planned one, to the byte."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    settings, limits = STREAMED[name]
    build = getattr(tf_keras.applications, name)
    model = build((96, 96, 3), weights=None, classes=10, **settings)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 96, 96, 3)).astype(np.float32)
    qmodel = tfmix.quantize_model(model, None, calibration_data=x, verbose=0)
    models, cases = {}, []
    for ram in limits:
        budget = tfmix.Budget(ram=ram)
        models[f"{name}.{ram}"] = converted = tfmix.convert(qmodel, budget=budget)
        assert converted.network.chains
        cases.append(of_model(f"{name}.{ram}", converted, runs=1))
    verdicts = program(cases)
    assert {v.result for v in verdicts.values()} == {"ok"}
    if program.on_board:
        _assert_predicted(models, verdicts)
        for ram in limits:
            report = tfmix.memory_report(qmodel, budget=tfmix.Budget(ram=ram))
            assert verdicts[f"{name}.{ram}"].arena == report.ram_bytes <= ram


def _assert_predicted(models, verdicts) -> None:
    """Arena in use, to the byte; and the smallest that will do."""
    for name, model in models.items():
        network = model.network
        planned = plan(schedule_of(network)).total
        assert verdicts[name].arena == census_of(network).interpreter_bytes + planned, name
        assert verdicts[name].needs == arena_bytes(network), name


# -- what is refused ------------------------------------------------------------------------------


def _conv_file() -> tflite.TfliteModel:
    rng = np.random.default_rng(1)
    return tflite.read(of_node("conv", random_case("conv2d_a8w4o2_pc", rng)).content)


def _with_operator(**fields: Any) -> tflite.TfliteModel:
    file = _conv_file()
    return replace(file, operators=(replace(file.operators[0], **fields),))


def _with_options(change: Callable[[bytearray], Any]) -> tflite.TfliteModel:
    options = bytearray(_conv_file().operators[0].options)
    change(options)
    return _with_operator(options=bytes(options))


def _with_tensor(index: int, **fields: Any) -> tflite.TfliteModel:
    file = _conv_file()
    tensors = list(file.tensors)
    tensors[index] = replace(tensors[index], **fields)
    return replace(file, tensors=tuple(tensors))


def _set(offset: int, *values: int) -> Callable[[bytearray], Any]:
    def change(options: bytearray) -> None:
        options[offset : offset + len(values)] = bytes(values)

    return change


INT8 = 9

REFUSED = {
    "magic": (lambda: _with_options(_set(0, 88)), "not those of tfmix"),
    "version": (lambda: _with_options(_set(4, 2)), "newer format: update tfmix"),
    "header": (lambda: _with_options(_set(6, 16)), "header of the custom options is damaged"),
    "cut": (lambda: _with_options(lambda o: o.__delitem__(slice(40, None))), "cut off"),
    "none": (lambda: _with_operator(options=b""), "not those of tfmix"),
    "stride": (lambda: _with_options(_set(12 + 32, 0, 0, 0, 0)), "a size is not positive"),
    "huge": (lambda: _with_options(_set(12 + 3, 127)), r"too large|contradict|window"),
    "no_constants": (lambda: _with_operator(inputs=(0,)), "1 inputs and 1 outputs, 2 and 1"),
    "no_input": (lambda: _with_operator(inputs=()), "0 inputs and 1 outputs, 2 and 1"),
    "two_outputs": (lambda: _with_operator(outputs=(2, 0)), "2 inputs and 2 outputs"),
    "optional": (lambda: _with_operator(inputs=(-1, 1)), "input 0 is missing"),
    "swapped": (lambda: _with_operator(inputs=(1, 0)), r"input 0 (has|must)"),
    "type": (lambda: _with_tensor(0, type=INT8), r"input 0 has type 9, 3 \(uint8\) expected"),
    "shape": (lambda: _with_tensor(0, shape=(1, 7)), r"input 0 has 7 bytes, \d+ expected"),
    "negative": (lambda: _with_tensor(2, shape=(-1, -7)), r"output 0 has -1 bytes"),
    "overflow": (lambda: _with_tensor(2, shape=(65536, 65536)), r"output 0 has -1 bytes"),
    "variable": (lambda: _with_tensor(1, data=None), "input 1 must be a constant"),
    "constant": (
        lambda: _with_tensor(0, data=b"\0" * 4096),
        "input 0 must not be a constant",
    ),
    "short": (
        lambda: _with_tensor(1, data=b"\1\2"),
        r"input 1 has 2 bytes in the file, \d+ expected",
    ),
}  # fmt: skip


def test_refused_with_a_reason(program):
    cases = [ModelCase(name, tflite.write(make())) for name, (make, _) in REFUSED.items()]
    cases.append(ModelCase("sound", tflite.write(_conv_file())))
    verdicts = program(cases)
    assert verdicts.pop("sound").result == "ok"
    for name, (_, reason) in REFUSED.items():
        assert verdicts[name].result == "refused", name
        assert re.search(f"TFMIX_CONV2D_A8W4O2_PC: .*{reason}", verdicts[name].log), (
            name,
            verdicts[name].log,
        )


def test_a_plan_that_lets_tensors_overlap(host):
    file = tflite.read(serialize(random_model(0, nodes=8)))
    ((name, content),) = file.metadata.items()
    plan = np.frombuffer(content, "<i4").copy()
    plan[3:] = np.where(plan[3:] < 0, plan[3:], 0)
    case = ModelCase(
        "overlap",
        tflite.write(replace(file, metadata={name: plan.tobytes()})),
        ((bytes(np.prod(file.tensors[file.inputs[0]].shape)), b""),),
    )
    verdict = host([case])["overlap"]
    assert verdict.result == "refused" and "over input 0" in verdict.log


def _chain_file() -> tflite.TfliteModel:
    """A file with a chain whose output must lie some way below its input, or apart."""
    for seed in range(100):
        model = random_chain(seed, first=True)
        if lower_chain(model, model.chains[0]).distance > 64:
            return tflite.read(serialize(model))
    raise AssertionError("no such chain")


def _with_chain_options(change: Callable[[bytearray], Any]) -> bytes:
    file = _chain_file()
    (chain,) = [op for op in file.operators if op.custom_code == "TFMIX_STREAM"]
    options = bytearray(chain.options)
    change(options)
    new = replace(chain, options=bytes(options))
    operators = tuple(new if op is chain else op for op in file.operators)
    return tflite.write(replace(file, operators=operators))


RECORD = 24
REFUSED_CHAINS = {
    "counts": (lambda o: o.__delitem__(slice(20, None)), "cut off"),
    "records": (lambda o: o.__delitem__(slice(100, None)), "cut off"),
    "layers": (_set(12, 65), "cut off|do not make a chain"),
    "negative": (_set(15, 255), "cut off"),
    "inputs": (_set(16, 9), "do not make a chain"),
    "by_rows": (_set(20, 2), "do not make a chain"),
    "kernel": (_set(RECORD, 9), "not among those that are linked"),
    "rows_kept": (_set(RECORD + 32, 77), "another number of rows"),
}


def test_chains_refused_with_a_reason(program):
    cases = [
        ModelCase(name, _with_chain_options(change)) for name, (change, _) in REFUSED_CHAINS.items()
    ]
    verdicts = program(cases)
    for name, (_, reason) in REFUSED_CHAINS.items():
        assert verdicts[name].result == "refused", name
        assert re.search(f"TFMIX_STREAM: .*({reason})", verdicts[name].log), verdicts[name].log


def test_an_output_too_close_below_its_input(host):
    """The plan may let them overlap, but not so."""
    file = _chain_file()
    ((name, content),) = file.metadata.items()
    plan = np.frombuffer(content, "<i4").copy()
    plan[3:] = np.where(plan[3:] < 0, plan[3:], 0)
    case = ModelCase(
        "close",
        tflite.write(replace(file, metadata={name: plan.tobytes()})),
        ((bytes(np.prod(file.tensors[file.inputs[0]].shape)), b""),),
    )
    verdict = host([case])["close"]
    assert verdict.result == "refused" and "TFMIX_STREAM: the file plans the output" in verdict.log


# -- hostile nodes --------------------------------------------------------------------------------


def test_the_corpus_of_the_fuzz_target(tmp_path):
    """Sanitized; kernels/tests/tflm/fuzz_bridge.cc and tflm_fuzzing.py say what is fuzzed."""
    if os.environ.get("TFLM_INCLUDE_DIRS") and not has_header(
        "tensorflow/lite/micro/micro_interpreter_context.h"
    ):
        pytest.skip("TFLM_INCLUDE_DIRS: MicroContext of this TFLM is no interface to implement")
    target = _or_skip(compile_target, tmp_path, "g++", (), (TESTS / "replay.cc",))
    files = tmp_path / "corpus"
    files.mkdir()
    contents = read_corpus()
    rng = np.random.default_rng(0)
    contents += [_changed(contents[rng.integers(len(contents))], rng) for _ in range(2000)]
    for number, content in enumerate(contents):
        (files / str(number)).write_bytes(content)
    done = subprocess.run([target, *files.iterdir()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(contents)} nodes\n"


def _changed(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data)


# -- what is linked -------------------------------------------------------------------------------


def _linked(directory: Path, tflm: Path, network: Any, flags: list[str]) -> tuple[Path, Path]:
    """A firmware that runs `network` with the operators of its header, and an empty one."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model_ops.h").write_text(resolver_source(network))
    (directory / "empty.cc").write_text("int main() { return 0; }\n")
    board = compile_sources([*BOARD_SOURCES, directory / "empty.cc"], M7, directory)
    flags = [*include_flags(), *flags, f"-I{directory}", "-Os"]
    objects = compile_sources([*BRIDGE_SOURCES, TESTS / "minimal.cc"], M7, directory, flags)
    objects += compile_sources(KERNEL_SOURCES, M7, directory)
    elf = link([*board[:-1], *objects], M7, directory / "minimal.elf", flags=[tflm])
    return elf, link(board, M7, directory / "empty.elf")


def test_a_firmware_holds_the_operators_of_its_model_only(tmp_path):
    """Interpreter, bridge and three variants take at most 20 kB of flash."""
    tflm = _or_skip(library, "TFLM_LIBRARY_ARM_STRIPPED")
    flags = ["-DTF_LITE_STRIP_ERROR_STRINGS", "-DNDEBUG"]
    elf, empty = _or_skip(_linked, tmp_path, tflm, _three_variants(), flags)
    symbols = command("arm-none-eabi-nm", "-C", elf)
    names = {name.lower() for name in re.findall(r"Prepare_([A-Z]\w+)", symbols)}
    kernels = set(re.findall(r" T tfmix_(\w+_a\w+)", symbols))
    assert len(names) == 3
    assert kernels == names
    size = text_size(elf) - text_size(empty)
    print(f"interpreter, bridge and three variants: {size:,} B of flash")
    assert size <= 20 * 1024


def test_a_firmware_with_a_chain_holds_its_kernels_only(tmp_path):
    tflm = _or_skip(library, "TFLM_LIBRARY_ARM_STRIPPED")
    network = random_chain(0, first=True)
    flags = ["-DTF_LITE_STRIP_ERROR_STRINGS", "-DNDEBUG"]
    elf, _ = _or_skip(_linked, tmp_path, tflm, network, flags)
    symbols = command("arm-none-eabi-nm", "-C", elf)
    linked = set(re.findall(r" T tfmix_(\w+)", symbols)) & set(all_variants())
    calls = {lower(node, network.tensors).variant for node in network.nodes}
    pools = {v for v in calls if v.startswith("average_pool")}  # perhaps by running sums
    assert calls - pools <= linked <= calls


def _three_variants() -> Any:
    """conv2d, average_pool, fully_connected."""
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    return tfmix.convert(tfmix.quantize_model(model, None, calibration_data=x, verbose=0)).network
