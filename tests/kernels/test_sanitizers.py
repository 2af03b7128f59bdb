"""Builds kernels/tests with the address and undefined-behaviour sanitizers and runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CASES_PER_VARIANT = 100  # drawn from the valid ones, and as many with hostile parameters
VARIANTS = 253
#: The path that a host takes, and the one of Cortex-M with what its instructions do said in C++.
PATHS = {"portable": (), "dsp": ("-DTFMIX_EMULATE_DSP",)}


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(directory: Path, defines: tuple[str, ...]) -> Path:
    def compile_one(source: Path) -> Path:
        target = directory / f"{source.stem}.o"
        flags = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", *SANITIZE, *defines]
        run(COMPILER, *flags, f"-I{KERNELS / 'include'}", "-c", source, "-o", target)
        return target

    sources = [*sorted((KERNELS / "src").glob("*.cc")), KERNELS / "tests" / "variants_test.cc"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    program = directory / "variants_test"
    run(COMPILER, *SANITIZE, *objects, "-o", program)
    return program


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("path", PATHS)
def test_every_variant_on_random_and_hostile_parameters(path, tmp_path):
    program = build(tmp_path, PATHS[path])
    expected = 2 * CASES_PER_VARIANT * VARIANTS
    assert run(program, str(CASES_PER_VARIANT), "1") == f"{expected} cases\n"
