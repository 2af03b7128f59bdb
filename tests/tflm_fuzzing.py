"""The fuzz target of the bridge: builds it, makes seeds, packs what was found.

    python tests/tflm_fuzzing.py build DIRECTORY    the target with libFuzzer; needs clang
    python tests/tflm_fuzzing.py seeds DIRECTORY    a valid node of every variant, and chains
    python tests/tflm_fuzzing.py pack DIRECTORY     DIRECTORY becomes tests/tflm/corpus.zip
    python tests/tflm_fuzzing.py unpack DIRECTORY   the other way

TFLM_INCLUDE_DIRS and TFLM_LIBRARY name TensorFlow Lite Micro, see tflm_programs.py.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from kernel_cases import random_case
from random_chains import random_chain
from target import KERNELS
from tflm_programs import BRIDGE_SOURCES, HOST_KERNEL_SOURCES, TESTS, include_flags, library

from tfmix.export.options import Header
from tfmix.export.streams import pack_stream
from tfmix.integer.abi import all_variants
from tfmix.integer.lower import lower, plane_of
from tfmix.integer.stream import lower_chain

CORPUS = Path(__file__).with_name("tflm") / "corpus.zip"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
SOURCES = (*BRIDGE_SOURCES, TESTS / "fuzz_bridge.cc", TESTS / "op_table.cc")
_SEEDS_PER_VARIANT, _CHAINS = 2, 40
#: Of kernels/tests/tflm/fuzz_bridge.cc.
_MOST_OPERANDS = 7


def build(directory: Path) -> Path:
    """The target with libFuzzer."""
    return compile_target(directory, "clang++", ("-fsanitize=fuzzer",), ())


def compile_target(
    directory: Path, compiler: str, flags: tuple[str, ...], sources: tuple[Path, ...]
) -> Path:
    """Compiled with the sanitizers. TflmMissing if TFLM is not given."""
    directory.mkdir(parents=True, exist_ok=True)
    words = [compiler, "-std=c++17", "-O1", "-g1", "-w", "-fno-rtti", *SANITIZE, *flags]
    words += [f"-I{KERNELS / 'include'}", *include_flags()]

    def compile_one(source: Path) -> Path:
        target = directory / f"{source.name}.o"
        subprocess.run([*words, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, (*HOST_KERNEL_SOURCES, *SOURCES, *sources)))
    path = directory / "fuzz_bridge"
    link = [*words, "-Wl,--allow-multiple-definition", *objects, library("TFLM_LIBRARY")]
    subprocess.run([*link, "-o", path], check=True)
    return path


def seed(variant: str, index: int) -> bytes:
    """A valid node, in the words of kernels/tests/tflm/fuzz_bridge.cc."""
    name = variant.encode()
    case = random_case(variant, np.random.default_rng((zlib.crc32(name), index)))
    call = lower(case.node, case.tensors)
    options = Header(3, 1.0, plane_of(case.node)).pack() + call.params
    inputs = len(call.inputs) + bool(call.constants)
    number = all_variants().index(variant)
    head = struct.pack("<HBBBH", number, inputs, 1, 0, len(options))
    tensors = b"".join(struct.pack("<BI", 0, i) for i in range(1, inputs + 2))
    return head + options + tensors


def chain_seed(index: int) -> bytes | None:
    """Likewise a chain; None if it has more operands than the target gives a node."""
    model = random_chain(index)
    call = lower_chain(model, model.chains[0])
    options = pack_stream(model, call)
    operands = len(call.inputs) + len(call.constants)
    if operands > _MOST_OPERANDS:
        return None
    head = struct.pack("<HBBBH", len(all_variants()), operands, 1, 0, len(options))
    tensors = b"".join(struct.pack("<BI", 0, i) for i in range(1, operands + 2))
    return head + options + tensors


def write_seeds(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for index in range(_CHAINS):
        content = chain_seed(index)
        if content is not None:
            (directory / f"chain.{index}").write_bytes(content)
    for variant in all_variants():
        for index in range(_SEEDS_PER_VARIANT):
            (directory / f"{variant}.{index}").write_bytes(seed(variant, index))


def pack(directory: Path) -> None:
    """Deterministic: by size and content, each behind its length as uint16, without dates."""
    files = sorted((path.read_bytes() for path in directory.iterdir()), key=lambda b: (len(b), b))
    content = b"".join(struct.pack("<H", len(file)) + file for file in files)
    with zipfile.ZipFile(CORPUS, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo("corpus"), content, zipfile.ZIP_DEFLATED)


def unpack(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(read_corpus()):
        (directory / f"{number:05}").write_bytes(content)


def read_corpus() -> list[bytes]:
    with zipfile.ZipFile(CORPUS) as archive:
        packed = archive.read("corpus")
    contents, at = [], 0
    while at < len(packed):
        (size,) = struct.unpack_from("<H", packed, at)
        contents.append(packed[at + 2 : at + 2 + size])
        at += 2 + size
    return contents


if __name__ == "__main__":
    command, directory = sys.argv[1], Path(sys.argv[2])
    {"build": build, "seeds": write_seeds, "pack": pack, "unpack": unpack}[command](directory)
