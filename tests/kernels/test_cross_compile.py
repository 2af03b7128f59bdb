"""The kernels and their header under the compilers of those who will use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
SOURCES = sorted((KERNELS / "src").glob("*.cc"))
ASSEMBLY = sorted((KERNELS / "src").glob("*.S"))
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror"]
#: What kernels/include/tfmix/kernels.h promises for a Cortex-M.
MAX_STACK = 1024


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}")
    return path


@pytest.mark.parametrize(
    ("compiler", "standard"),
    [("gcc", "c99"), ("gcc", "c11"), ("g++", "c++17"), ("arm-none-eabi-gcc", "c99")],
)
@pytest.mark.parametrize("header", ["kernels.h", "stream.h"])
def test_the_header_stands_alone(compiler, standard, header, tmp_path):
    source = tmp_path / ("header.cc" if "++" in standard else "header.c")
    source.write_text(f'#include "tfmix/{header}"\n')
    flags = [f"-std={standard}", "-pedantic", *WARNINGS, "-fsyntax-only"]
    run(tool(compiler), *flags, f"-I{KERNELS / 'include'}", source)


@pytest.fixture(scope="module")
def cortex_m7(tmp_path_factory) -> Path:
    """Directory with an object and a stack usage file of each source."""
    compiler = tool("arm-none-eabi-g++")
    directory = tmp_path_factory.mktemp("cortex-m7")
    flags = ["-mcpu=cortex-m7", "-mthumb", "-O2", "-std=c++17", "-fno-exceptions", "-fno-rtti"]

    def compile_one(source: Path) -> None:
        target = directory / f"{source.stem}.o"
        include = f"-I{KERNELS / 'include'}"
        run(compiler, *flags, *WARNINGS, "-fstack-usage", include, "-c", source, "-o", target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, SOURCES))
    for source in ASSEMBLY:
        run(compiler, *flags[:2], "-c", source, "-o", directory / f"{source.stem}.o")
    return directory


@pytest.mark.parametrize("stem", [source.stem for source in SOURCES])
def test_stack_is_bounded(cortex_m7, stem):
    entries, helpers = [0], [0]
    for line in (cortex_m7 / f"{stem}.su").read_text().splitlines():
        function, size, kind = line.split("\t")
        assert kind == "static", function
        if "_prepare(" not in function:
            (entries if re.search(r"\btfmix_\w+\(", function) else helpers).append(int(size))
    # No kernel nests two large helpers; small ones cost registers only.
    assert max(entries) + max(helpers) < MAX_STACK


def test_only_memory_functions_are_needed(cortex_m7):
    """No heap, no globals, no C++ library."""
    objects = [cortex_m7 / f"{source.stem}.o" for source in (*SOURCES, *ASSEMBLY)]
    symbols = run(tool("arm-none-eabi-nm"), *objects)
    undefined = set(re.findall(r" U (\w+)", symbols)) - set(re.findall(r" [TVW] (\w+)", symbols))
    assert undefined <= {"memcpy", "memset", "memmove"}
    assert not re.findall(r" [BbDd] \w+", symbols)
