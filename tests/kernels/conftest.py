"""What the tests on the target share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from target import KERNEL_SOURCES, PORTABLE, TOOLS, Board, ToolMissing, compile_sources, require

#: Flags of the two paths that kernels have. At -O3 the portable one takes long to compile.
PATHS = {"dsp": (), "portable": (*PORTABLE, "-O1")}

KernelObjects = Callable[[Board, str], list[Path]]


@pytest.fixture(scope="session")
def target_tools() -> None:
    """Skips a test that needs a compiler for Cortex-M or QEMU, and says which of them is absent."""
    try:
        require(*TOOLS)
    except ToolMissing as missing:
        pytest.skip(f"{missing}: target tests skipped")


@pytest.fixture(scope="session")
def kernel_objects(target_tools, tmp_path_factory) -> KernelObjects:
    """(board, path) -> object files of all kernels, compiled once."""

    @cache
    def compile_kernels(board: Board, path: str) -> list[Path]:
        directory = tmp_path_factory.mktemp(f"{board.cpu}-{path}")
        return compile_sources(KERNEL_SOURCES, board, directory, PATHS[path])

    return compile_kernels
