"""Feeds damaged `.tflite` files to tfmix.load, and what loads to the kernels.

    .venv/bin/python tests/fuzz/fuzz_load.py --minutes 60

Every file must either raise FormatError or load, within seconds; what loads must either be refused
by a kernel's prepare function or run, with the output of the NumPy reference. Files that are sound
flatbuffers, whatever they say, go to the desktop delegate too. Kernels and delegate are built with
the address and undefined-behaviour sanitizers and run in a process of their own, which a sanitizer
ends at the first error.

Coverage steers, cheaply: a file that is refused at a place where none was refused before, or that
loads with kernels not seen together before, joins the files that are mutated next. Those of them
that are small make up tests/fuzz/corpus, which `make test` replays; --keep writes new ones there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"
CORPUS = Path(__file__).resolve().parent / "corpus"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

#: What loads but would take too long to run: the sum of all tensors, and of all products.
MAX_ELEMENTS, MAX_PRODUCTS = 1 << 22, 1 << 22
#: Of these, what the slow reference is asked about too.
MAX_REFERENCE_PRODUCTS = 1 << 16
#: Bytes of all tensors of a file that the delegate is given.
MAX_DELEGATE_BYTES = 1 << 16
#: Longest time for one file, sanitizers included.
MAX_SECONDS = 20.0
#: What the corpus may take.
MAX_CORPUS_BYTES, MAX_CORPUS_FILE = 265_000, 4_000


# -- the sanitized kernels ----------------------------------------------------------------------


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def build_kernels(directory: Path) -> Path:
    """The library of the kernels, with sanitizers. RuntimeError if the compiler fails."""

    def compile_one(source: Path) -> Path:
        target = directory / f"{source.parent.name}_{source.stem}.o"
        _run(
            *(compiler(), "-std=c++17", "-O1", "-g1", "-fPIC", *SANITIZE),
            *(f"-I{KERNELS / 'include'}", "-c", source, "-o", target),
        )
        return target

    sources = [*(KERNELS / "src").glob("*.cc"), *(KERNELS / "host").glob("*.cc")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(sources)))
    library = directory / "_kernels.so"
    _run(compiler(), "-shared", *SANITIZE, *objects, "-o", library)
    return library


def sanitizer_environment() -> dict[str, str]:
    """For a Python that loads that library: the sanitizer comes first, to see every allocation."""
    runtimes = [_run(compiler(), f"-print-file-name=lib{x}.so").strip() for x in ("asan", "ubsan")]
    return {
        **os.environ,
        "LD_PRELOAD": ":".join(runtimes),
        # Python never frees some of what it allocates. An allocation too large gives no memory.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def _run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr}")
    return done.stdout


# -- one file -----------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What became of a file. signature: equal for files that went the same way."""

    kind: str  # "refused", "loaded", "prepared", "ran"
    signature: tuple[object, ...]
    seconds: float


def judge(data: bytes) -> Verdict:
    """Loads and runs one file. Raises whatever is neither success nor a TfmixError."""
    import numpy as np

    from tfmix.errors import TfmixError
    from tfmix.export.load import deserialize
    from tfmix.integer import reference
    from tfmix.integer.runtime import CRuntime

    start = time.perf_counter()

    def verdict(kind: str, *signature: object) -> Verdict:
        return Verdict(kind, (kind, *signature), time.perf_counter() - start)

    try:
        model = deserialize(data)
    except TfmixError as error:
        return verdict("refused", *_places(error))
    kernels = tuple(sorted({node.kernel.value for node in model.nodes}))
    elements, products = _work(model)
    if elements > MAX_ELEMENTS or products > MAX_PRODUCTS:
        return verdict("loaded", kernels)
    try:
        runtime = CRuntime(model)
    except TfmixError as error:
        return verdict("prepared", *_places(error))
    rng = np.random.default_rng(len(data))
    inputs = rng.integers(0, 256, (1, *model.input_shape), np.uint8)
    tensors = runtime.tensors(inputs)
    if products <= MAX_REFERENCE_PRODUCTS:
        for name, expected in reference.run(model, inputs).items():
            assert np.array_equal(tensors[name], expected), f"{name} differs from the reference"
    if model.chains:
        output = tensors[model.output].reshape(-1, *model.output_shape)
        assert np.array_equal(runtime.run(inputs), output), "the chains differ from the layers"
    return verdict("ran", kernels, len(model.chains))


def delegate(data: bytes) -> str:
    """Gives a file to the delegate, checked by nobody else. "refused", "ran" or "skipped"."""
    import fake_interpreter

    from tfmix.errors import TfmixError
    from tfmix.export import tflite
    from tfmix.integer.runtime import load_library

    try:
        file = tflite.read(data)
    except TfmixError:
        return "skipped"
    sizes = fake_interpreter.tensor_bytes(file)
    if min(sizes, default=0) < 0 or sum(sizes) > MAX_DELEGATE_BYTES:
        return "skipped"
    return fake_interpreter.run(load_library(), file)


def _places(error: BaseException) -> Iterable[tuple[str, int]]:
    """Where an exception was raised, and the words of its message."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_name, trace.tb_lineno
        trace = trace.tb_next
    yield re.sub(r"\W*\d\w*|'[^']*'|b'.*", "#", str(error))[:80], 0


def _work(model: object) -> tuple[int, int]:
    """Elements of all tensors; products of all layers, windows of pooling included."""
    import math

    elements = sum(math.prod(tensor.shape) for tensor in model.tensors.values())
    products = 0
    for node in model.nodes:
        depth = math.prod(node.window.kernel) if node.window is not None else 1
        if node.weights is not None:
            depth = max(depth, node.weights.values.size // node.output_shape[2])
        products += math.prod(node.output_shape) * depth
    return elements, products


# -- many files ---------------------------------------------------------------------------------


@dataclass
class Fuzzer:
    """Mutates `files` and those of their mutants that went new ways."""

    files: list[bytes]
    seed: int
    crash: Path  # where the file at hand lies while it is being judged
    seen: set[tuple[object, ...]] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    delegated: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    news: list[bytes] = field(default_factory=list)

    def run(self, seconds: float, most: int | None = None) -> None:
        import numpy as np
        from integer_models import random_model
        from mutants import mutant
        from random_chains import random_chain

        from tfmix.export.flatbuffer import serialize

        rng = np.random.default_rng(self.seed)
        for data in list(self.files):
            self._judge(data)
        end = time.monotonic() + seconds
        said = time.monotonic()
        while time.monotonic() < end and most != 0:
            most = most and most - 1
            fresh = rng.integers(8) == 0
            make = (random_model, random_chain)[rng.integers(2)]
            files = [serialize(make(int(rng.integers(1 << 30))))] if fresh else self.files
            self._judge(mutant(files, rng), joins=True)
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(self, flush=True)

    def _judge(self, data: bytes, joins: bool = False) -> None:
        self.crash.write_bytes(data)
        verdict = judge(data)
        outcome = delegate(data)
        self.delegated[outcome] = self.delegated.get(outcome, 0) + 1
        self.counts[verdict.kind] = self.counts.get(verdict.kind, 0) + 1
        self.slowest = max(self.slowest, verdict.seconds)
        assert verdict.seconds < MAX_SECONDS, f"{verdict.seconds:.1f} s for one file"
        if verdict.signature not in self.seen:
            self.seen.add(verdict.signature)
            if joins and len(data) < 1 << 16:
                self.files.append(data)
                self.news.append(data)

    def __str__(self) -> str:
        parts = [f"{n:,} {kind}" for kind, n in sorted(self.counts.items())]
        delegated = [f"{n:,} {outcome}" for outcome, n in sorted(self.delegated.items())]
        return (
            f"{sum(self.counts.values()):,} files ({', '.join(parts)}), {len(self.seen)} ways, "
            f"slowest {self.slowest:.2f} s; by the delegate {', '.join(delegated)}"
        )


def seeds(count: int) -> list[bytes]:
    """Sound files: random networks, some with chains, and every kernel by itself."""
    from integer_models import model_of, random_model
    from random_chains import random_chain

    from tfmix.export.flatbuffer import serialize
    from tfmix.integer.model import Kernel

    models = [random_model(seed, nodes=4) for seed in range(count)]
    models += map(random_chain, range(count))
    return [serialize(model) for model in [*models, *map(model_of, Kernel)]]


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]


def keep(files: Iterable[bytes]) -> int:
    """Adds small files to the corpus, as long as there is room. How many were added."""
    import hashlib

    CORPUS.mkdir(exist_ok=True)
    room = MAX_CORPUS_BYTES - sum(path.stat().st_size for path in CORPUS.glob("*.bin"))
    added = 0
    for data in sorted(files, key=len):
        path = CORPUS / f"{hashlib.sha256(data).hexdigest()[:12]}.bin"
        if len(data) > min(room, MAX_CORPUS_FILE) or path.exists():
            continue
        path.write_bytes(data)
        room, added = room - len(data), added + 1
    return added


def worker(arguments: argparse.Namespace) -> None:
    """In the process with the sanitizers."""
    from tfmix.integer import runtime

    runtime._LIBRARY = Path(arguments.library)
    crash = Path(arguments.library).parent / "file.bin"
    fuzzer = Fuzzer([*seeds(20), *corpus()], arguments.seed, crash)
    fuzzer.run(arguments.minutes * 60, arguments.files)
    print(fuzzer)
    if arguments.keep:
        print(f"{keep(fuzzer.news)} files added to {CORPUS.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--files", type=int, help="stop after so many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="add to the corpus")
    parser.add_argument("--library", help="kernels with sanitizers, built before")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    if arguments.worker:
        worker(arguments)
        return 0
    if compiler() is None:
        print("no C++ compiler")
        return 1
    with tempfile.TemporaryDirectory() as directory:
        library = arguments.library
        if library is None:
            print("building the kernels with sanitizers", flush=True)
            library = build_kernels(Path(directory))
        words = [sys.executable, __file__, *sys.argv[1:], "--worker", "--library", str(library)]
        done = subprocess.run(words, env=sanitizer_environment())
        if done.returncode != 0:
            saved = Path(f"crash-{time.strftime('%H%M%S')}.bin").resolve()
            shutil.copy(Path(library).parent / "file.bin", saved)
            print(f"failed; the file is {saved}")
        return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
