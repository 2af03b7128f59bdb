"""Builds kernels/tests with the address and undefined-behaviour sanitizers and runs them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from random_chains import random_chain

from tfmix.integer import reference
from tfmix.integer.packing import pack
from tfmix.integer.stream import lower_chain

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CASES_PER_VARIANT = 100  # drawn from the valid ones, and as many with hostile parameters
VARIANTS = 253
CHAINS, HOSTILE_PER_CHAIN = 120, 40
#: The path that a host takes, and the one of Cortex-M with what its instructions do said in C++.
PATHS = {"portable": (), "dsp": ("-DTFMIX_EMULATE_DSP",)}


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=PATHS)
def objects(request, tmp_path_factory) -> tuple[Path, list[Path]]:
    """A directory, and the objects of the kernels in it, of one path."""
    directory = tmp_path_factory.mktemp(request.param)
    sources = sorted((KERNELS / "src").glob("*.cc"))
    return directory, compile_sources(directory, sources, PATHS[request.param])


def compile_sources(
    directory: Path, sources: list[Path], defines: tuple[str, ...] = ()
) -> list[Path]:
    def compile_one(source: Path) -> Path:
        target = directory / f"{source.stem}.o"
        flags = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", *SANITIZE, *defines]
        run(COMPILER, *flags, f"-I{KERNELS / 'include'}", "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources))


def link(objects: tuple[Path, list[Path]], *sources: Path) -> Path:
    directory, kernels = objects
    program = directory / sources[0].stem
    run(COMPILER, *SANITIZE, *kernels, *compile_sources(directory, [*sources]), "-o", program)
    return program


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_every_variant_on_random_and_hostile_parameters(objects):
    program = link(objects, KERNELS / "tests" / "variants_test.cc")
    expected = 2 * CASES_PER_VARIANT * VARIANTS
    assert run(program, str(CASES_PER_VARIANT), "1") == f"{expected} cases\n"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_chains_and_hostile_ones(objects):
    sources = [KERNELS / "tests" / "stream_test.cc", KERNELS / "host" / "stream_kernels.cc"]
    program = link(objects, *sources)
    path = objects[0] / "chains.bin"
    path.write_bytes(b"".join(encoded_chain(seed) for seed in range(CHAINS)))
    assert run(program, path, str(HOSTILE_PER_CHAIN), "1") == f"{CHAINS} chains\n"


def encoded_chain(seed: int) -> bytes:
    """In the words of kernels/tests/stream_test.cc; every second one takes its input by rows."""
    model = random_chain(seed)
    q = np.random.default_rng(seed).integers(0, 256, (1, *model.input_shape), np.uint8)
    values = {
        name: pack(value[0], model.tensors[name].quant.bits).tobytes()
        for name, value in reference.run(model, q).items()
    }
    call = lower_chain(model, model.chains[0], input_by_rows=seed % 2 == 1)
    operands = [values[name] for name in call.inputs] + [c.constants for c in call.constants]
    counts = (len(call.layers), len(call.inputs), call.input_rows, len(operands))
    parts = [struct.pack("<i", len(part)) + part for part in (*operands, values[call.output])]
    return struct.pack("<4i", *counts) + call.records + b"".join(parts)
