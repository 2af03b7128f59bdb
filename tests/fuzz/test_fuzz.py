"""What fuzz_load.py does, in short: its corpus and a few hundred new files, with sanitizers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fuzz_load  # noqa: E402

MUTANTS = 300


@pytest.mark.skipif(fuzz_load.compiler() is None, reason="no C++ compiler")
def test_the_corpus_and_new_mutants(tmp_path):
    words = [sys.executable, fuzz_load.__file__, "--files", str(MUTANTS)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert " ran" in done.stdout and " refused" in done.stdout


def test_the_corpus_is_small():
    files = list(fuzz_load.CORPUS.glob("*.bin"))
    assert files
    assert sum(path.stat().st_size for path in files) <= fuzz_load.MAX_CORPUS_BYTES
