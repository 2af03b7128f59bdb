"""C networks: they compile anywhere, compute what IntegerModel does, and stay in their arena."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_models import ModelBuilder, model_of, random_model
from random_chains import random_chain

import tfmix
from tfmix.errors import TfmixError
from tfmix.export import c_source
from tfmix.export.c_source import c_sources, export_c_network
from tfmix.integer import abi
from tfmix.integer.inference import IntegerModel
from tfmix.integer.lower import lower
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.ir.graph import FIXED_BITS
from tfmix.ir.quant import QuantParams
from tfmix.policy.cost.arena import plan

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"
INCLUDE = f"-I{KERNELS / 'include'}"
DRIVER = Path(__file__).with_name("c_driver.c")
GOLDEN = ROOT / "tests" / "golden" / "c_network"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
C99 = ["gcc", "-std=c99", "-pedantic", *WARNINGS]
SEEDS = range(16)

needs_compiler = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("g++")), reason="no gcc and g++"
)


def run(*command: str | Path, stdin: bytes = b"") -> bytes:
    done = subprocess.run(list(map(str, command)), input=stdin, capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout


def compile_kernels(directory: Path, *flags: str | Path) -> list[Path]:
    """An object per kernel source, one function per section."""

    def compile_one(source: Path) -> Path:
        target = directory / f"{source.stem}.o"
        run(
            *("g++", "-std=c++17", "-O1", "-fno-exceptions", "-fno-rtti", "-ffunction-sections"),
            *(*flags, INCLUDE, "-c", source, "-o", target),
        )
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sorted((KERNELS / "src").glob("*.cc"))))


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """All kernels, compiled once."""
    directory = tmp_path_factory.mktemp("kernels")
    path = directory / "libtfmix.a"
    run("ar", "rcs", path, *compile_kernels(directory))
    return path


def build(directory: Path, *kernels: Path, flags: tuple[str, ...] = ()) -> Path:
    """The program that runs the network `model` in `directory`, its arena between guards."""
    program = directory / "run"
    sources = [directory / "model.c", DRIVER, *kernels]
    run(*C99, "-DMODEL_USER_ARENA", INCLUDE, f"-I{directory}", *flags, *sources, "-o", program)
    return program


def inputs_of(model: IntegerNetwork, n: int = 4) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (n, *model.input_shape), np.uint8)


def outputs_of(program: Path, model: IntegerNetwork, q: np.ndarray) -> np.ndarray:
    output = run(program, stdin=q.tobytes())
    return np.frombuffer(output, np.uint8).reshape(len(q), *model.output_shape)


def variants_of(model: IntegerNetwork) -> set[str]:
    return {lower(node, model.tensors).variant for node in model.nodes}


def linked_variants(program: Path) -> set[str]:
    """Variants whose code is in a program."""
    symbols = re.findall(r" T tfmix_(\w+)", run("nm", program).decode())
    return set(symbols) & set(abi.all_variants())


# -- what it computes ---------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_equal_those_of_the_integer_model(seed, library, tmp_path):
    model = random_model(seed, 8)
    export_c_network(model, tmp_path)
    q = inputs_of(model)
    found = outputs_of(build(tmp_path, library), model, q)
    np.testing.assert_array_equal(found, IntegerModel(model).run(q))


@needs_compiler
@pytest.mark.parametrize("kernel", Kernel)
def test_every_kernel(kernel, library, tmp_path):
    model = model_of(kernel)
    export_c_network(model, tmp_path)
    q = inputs_of(model)
    found = outputs_of(build(tmp_path, library), model, q)
    np.testing.assert_array_equal(found, IntegerModel(model).run(q))


@needs_compiler
@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_chains(seed, by_rows, library, tmp_path):
    model = random_chain(seed, first=by_rows)
    export_c_network(model, tmp_path, input_by_rows=by_rows)
    q = inputs_of(model)
    found = outputs_of(build(tmp_path, library), model, q)
    np.testing.assert_array_equal(found, IntegerModel(replace(model, chains=())).run(q))


@pytest.fixture(scope="module")
def digits():
    """The demo's network in mixed precision, as calibration leaves it."""
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("digits", ROOT / "examples" / "digits.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    (x, _), (x_test, _) = demo.load_data()
    model = demo.build_model()
    return tfmix.quantize_model(model, demo.BUDGET, calibration_data=x[:64], verbose=0), x_test[:20]


@needs_compiler
def test_the_digits_network(digits, library, tmp_path):
    qmodel, x = digits
    paths = tfmix.export_c(qmodel, tmp_path / "firmware")
    assert [path.name for path in paths] == ["model.h", "model.c", "model_variants.inc"]
    model = tfmix.convert(qmodel)
    program = build(paths[0].parent, library)
    q = model.quantize(x)
    np.testing.assert_array_equal(outputs_of(program, model.network, q), model.run(q))
    ram = tfmix.memory_report(qmodel).activation_bytes
    assert f"#define MODEL_ARENA_BYTES {ram}\n" in paths[0].read_text()


# -- init ---------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"(sizes = \{\d+, \d+, \d+, \d+, )\d+", r"\g<1>0", "sizes contradict"),  # scratch
        (r"(conv_params layer\d+_params = \{\n    )\d+", r"\g<1>-1", "sizes contradict"),
        (r"\d+(, /\* output_zero_point \*/)", r"256\1", "zero point"),
    ],
)
def test_init_reports_what_the_kernels_do_not_accept(
    pattern, replacement, message, library, tmp_path
):
    export_c_network(model_of(Kernel.CONV2D), tmp_path)
    assert message in complaint_of_init(pattern, replacement, library, tmp_path)


@needs_compiler
@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"(chain1_sizes = \{\d+, )\d+", r"\g<1>4", "sizes contradict"),  # scratch
        (r"(chain1_operand_sizes\[\d+\] = \{)\d+", r"\g<1>1", "sizes contradict"),
        (r"\n     (\d+), (\d+), (\d+),", r"\n     \1, \2, 100,", "another number of rows"),
        (r"(kernels, )\d+\};", r"\g<1>0};", "not among those that are linked"),
    ],
)
def test_init_reports_a_chain_that_cannot_run(pattern, replacement, message, library, tmp_path):
    kernels = (Kernel.CONV2D, Kernel.ADD)
    export_c_network(random_chain(1, kernels, first=True), tmp_path)
    assert message in complaint_of_init(pattern, replacement, library, tmp_path)


def complaint_of_init(pattern: str, replacement: str, library: Path, tmp_path: Path) -> str:
    source = tmp_path / "model.c"
    text = source.read_text()
    assert re.search(pattern, text)
    source.write_text(re.sub(pattern, replacement, text))
    done = subprocess.run([build(tmp_path, library)], capture_output=True, text=True)
    assert done.returncode == 1
    return done.stdout


# -- how it builds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", ["-std=c99", "-pedantic"]),
        ("gcc", ["-std=c11", "-pedantic"]),
        ("g++", ["-x", "c++", "-std=c++17", "-pedantic"]),
        ("clang", ["-std=c99", "-pedantic"]),
        ("arm-none-eabi-gcc", ["-std=c99", "-mcpu=cortex-m4", "-mthumb"]),
    ],
)
def test_it_compiles_without_warnings(compiler, flags, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    for seed in SEEDS[:4]:
        for model in (random_model(seed, 8), random_chain(seed)):
            export_c_network(model, tmp_path)
            source = tmp_path / "model.c"
            run(compiler, *flags, *WARNINGS, INCLUDE, "-c", source, "-o", tmp_path / "model.o")


@needs_compiler
def test_the_linker_drops_what_is_not_called(library, tmp_path):
    model = random_model(1, 8)
    export_c_network(model, tmp_path)
    program = build(tmp_path, library, flags=("-Wl,--gc-sections",))
    assert linked_variants(program) == variants_of(model)


@needs_compiler
def test_kernels_compiled_for_one_network_hold_its_variants_only(tmp_path):
    model = random_model(1, 8)
    *_, variants = export_c_network(model, tmp_path)
    objects = compile_kernels(tmp_path, "-include", variants)
    program = build(tmp_path, *objects)
    assert linked_variants(program) == variants_of(model)
    q = inputs_of(model)
    np.testing.assert_array_equal(outputs_of(program, model, q), IntegerModel(model).run(q))


@needs_compiler
def test_constants_are_aligned_and_counted(tmp_path):
    model = random_model(2, 12, (Kernel.CONV2D, Kernel.ADD, Kernel.CONCATENATE))
    header, *_ = export_c_network(model, tmp_path)
    section = '-DMODEL_CONSTANT_ATTRIBUTES=__attribute__((section(".rodata.model")))'
    target = tmp_path / "model.o"
    run(*C99, INCLUDE, section, "-c", tmp_path / "model.c", "-o", target)
    sizes = run("size", "-A", target).decode()
    found = int(re.search(r"\.rodata\.model +(\d+)", sizes).group(1))
    counted = int(re.search(r"CONSTANT_BYTES (\d+)", header.read_text()).group(1))
    # The compiler aligns the structs that lie between the constants.
    assert counted - 16 * len(model.nodes) <= found <= counted + 32 * len(model.nodes)
    symbols = re.findall(r"^(\w+) r layer\d+_constants", run("nm", target).decode(), re.MULTILINE)
    assert symbols and all(int(address, 16) % 16 == 0 for address in symbols)


@needs_compiler
def test_networks_live_side_by_side(library, tmp_path):
    for name in ("first", "second"):
        export_c_network(model_of(Kernel.ADD, len(name)), tmp_path, name)
    main = tmp_path / "main.c"
    main.write_text(
        '#include "first.h"\n#include "second.h"\n'
        "int main(void) {\n"
        "  first_invoke();\n  second_invoke();\n"
        "  return first_init() != TFMIX_OK || second_init() != TFMIX_OK ||\n"
        "         &first_arena[0] == &second_arena[0];\n}\n"
    )
    sources = [tmp_path / "first.c", tmp_path / "second.c", main, library]
    run(*C99, INCLUDE, *sources, "-o", tmp_path / "run")
    run(tmp_path / "run")


# -- the text -----------------------------------------------------------------------------------


def golden_model() -> IntegerNetwork:
    """Kernels whose constants and scratch are not going to change."""
    builder = ModelBuilder(np.random.default_rng(0), (2, 3, 2))
    for kernel in (Kernel.ADD, Kernel.MAX_POOL, Kernel.CONCATENATE):
        builder.add(kernel)
    builder.requantize_to(FIXED_BITS)
    builder.add(Kernel.SOFTMAX)
    return builder.finish()


@pytest.mark.parametrize("file", ["golden.h", "golden.c", "golden_variants.inc"])
def test_golden_text(file):
    """After a deliberate change: write_golden() below."""
    assert golden_sources()[file] == (GOLDEN / file).read_text()


def golden_sources() -> dict[str, str]:
    sources = c_sources(golden_model(), "golden")
    return {
        name: text.replace(f"tfmix {tfmix.__version__}.", "tfmix VERSION.")
        for name, text in sources.items()
    }


def write_golden() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, text in golden_sources().items():
        (GOLDEN / name).write_text(text)


def test_the_text_is_the_same_every_time():
    assert c_sources(random_model(5), "net") == c_sources(random_model(5), "net")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_arena_is_that_of_the_planner(seed):
    model = random_model(seed, 8)
    total = plan(schedule_of(model)).total
    assert f"#define NET_ARENA_BYTES {total}\n" in c_sources(model, "net")["net.h"]


def test_numbers_that_are_hard_to_write_in_c():
    model = model_of(Kernel.REQUANTIZE)
    node = model.nodes[0]
    extreme = replace(node, rescales=(replace(node.rescales[0], multiplier=-(1 << 31)),))
    text = c_sources(replace(model, nodes=(extreme, *model.nodes[1:])))["model.c"]
    assert "    INT32_MIN, /* multiplier */" in text and "-2147483648" not in text
    assert c_source._float(1.0) == "1.0f"
    assert c_source._float(float(np.float32(1e-10))) == "1e-10f"


def test_names_of_layers_cannot_leave_their_comments(tmp_path):
    hostile = "*/ #error \\\n ??/ /* ünï"
    model = model_of(Kernel.ADD)
    old = model.nodes[0].output
    tensors = {
        (hostile if name == old else name): replace(tensor, name=hostile if name == old else name)
        for name, tensor in model.tensors.items()
    }
    nodes = tuple(
        replace(
            node,
            name=hostile if node is model.nodes[0] else node.name,
            inputs=tuple(hostile if name == old else name for name in node.inputs),
            output=hostile if node.output == old else node.output,
        )
        for node in model.nodes
    )
    export_c_network(replace(model, tensors=tensors, nodes=nodes), tmp_path)
    assert (tmp_path / "model.c").read_text().isascii()
    if shutil.which("gcc"):
        run(*C99, INCLUDE, "-c", tmp_path / "model.c", "-o", tmp_path / "model.o")


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "1net", "my net", "net-1", "../net", "_net", "né", "a" * 64, "net\n", None]
)
def test_names_must_be_identifiers(name, tmp_path):
    with pytest.raises(TfmixError, match="is not a C identifier"):
        export_c_network(model_of(Kernel.ADD), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_invalid_models_are_refused(tmp_path):
    model = model_of(Kernel.ADD)
    with pytest.raises(TfmixError, match="no nodes"):
        export_c_network(replace(model, nodes=()), tmp_path)
    narrow = replace(
        model.tensors[model.input], quant=QuantParams(0.5, 3, 4), shape=model.input_shape
    )
    tensors = {**model.tensors, model.input: narrow}
    with pytest.raises(TfmixError, match="'input' has 4 bits; input and output have 8"):
        export_c_network(replace(model, tensors=tensors), tmp_path)
    assert not list(tmp_path.iterdir())


def test_kernels_that_want_more_scratch_than_planned_are_refused(monkeypatch):
    def greedy(call):
        sizes = prepare(call)
        return replace(sizes, scratch=sizes.scratch + 1)

    prepare = c_source.prepare
    monkeypatch.setattr(c_source, "prepare", greedy)
    with pytest.raises(TfmixError, match=r"needs \d+ bytes of scratch, \d+ are planned"):
        c_sources(model_of(Kernel.CONV2D))


def test_a_float_model_is_refused(tmp_path):
    import tf_keras

    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(TfmixError, match="is not a fake-quant model"):
        tfmix.export_c(model, tmp_path)


# -- files --------------------------------------------------------------------------------------


def test_the_directory_is_made_where_its_parent_is_there(tmp_path):
    model = model_of(Kernel.ADD)
    paths = export_c_network(model, tmp_path / "new", "net")
    assert paths == tuple(
        tmp_path / "new" / name for name in ("net.h", "net.c", "net_variants.inc")
    )
    with pytest.raises(TfmixError, match="cannot write .*No such file"):
        export_c_network(model, tmp_path / "no" / "parent")


def test_a_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(TfmixError, match="cannot write .*file"):
        export_c_network(model_of(Kernel.ADD), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("blocked", ["model.h", "model.c", "model_variants.inc"])
def test_all_files_or_none(blocked, tmp_path):
    """A directory in the place of one file: the others are as before."""
    others = {"model.h", "model.c", "model_variants.inc"} - {blocked}
    for name in sorted(others)[:1]:
        (tmp_path / name).write_text("old")
    (tmp_path / blocked).mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(TfmixError, match="cannot write"):
        export_c_network(model_of(Kernel.ADD), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / sorted(others)[0]).read_text() == "old"


def test_a_directory_made_in_vain_is_removed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TfmixError, match="cannot write .*new: No space left"):
        export_c_network(model_of(Kernel.ADD), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_older_files_are_replaced(tmp_path):
    for seed in (1, 2):
        export_c_network(model_of(Kernel.CONV2D, seed), tmp_path)
    sources = c_sources(model_of(Kernel.CONV2D, 2))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == sources
