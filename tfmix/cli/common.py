"""What commands share: their outcome, options of several of them, a quiet TensorFlow."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tfmix.budget import ACCOUNTINGS, STREAMINGS, Budget, parse_size
from tfmix.errors import ConversionWarning, TfmixError


@dataclass(frozen=True)
class Outcome:
    """What a command found: a JSON object for machines, text for people, the exit code."""

    document: dict[str, Any] = field(hash=False)
    text: str
    code: int = 0


def say(arguments: argparse.Namespace, message: str) -> None:
    """A line of progress."""
    if not arguments.quiet:
        print(message, file=sys.stderr, flush=True)


def verbosity(arguments: argparse.Namespace) -> int:
    """`verbose` of the library's functions."""
    return 0 if arguments.quiet else 1


# -- budget -------------------------------------------------------------------------------------


def add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget")
    group.add_argument(
        "--budget",
        metavar="flash=SIZE,ram=SIZE",
        help='for instance "flash=2MB,ram=512kB"; one of them alone is no limit for the other; '
        "accounting=paper counts bytes as the paper does, streaming=off has no layers run by rows",
    )
    group.add_argument(
        "--device", metavar="NAME", help="all of a part, see `tfmix devices`; --budget overrules it"
    )


def budget_of(arguments: argparse.Namespace) -> Budget | None:
    """None without --budget and --device. TfmixError for what is no budget."""
    sizes = _parse_budget(arguments.budget) if arguments.budget else {}
    if arguments.device:
        return Budget.for_device(arguments.device, **sizes)
    return Budget(**sizes) if sizes else None


def _parse_budget(text: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in (f.name for f in fields(Budget)) or not value or name in sizes:
            raise TfmixError(
                f"--budget {text!r}: {part!r} is not one of flash=SIZE, ram=SIZE, "
                f"accounting={'|'.join(ACCOUNTINGS)}, streaming={'|'.join(STREAMINGS)}, each once"
            )
        sizes[name] = value
    for name in ("flash", "ram"):
        if sizes.get(name, "").isdecimal():  # bytes
            sizes[name] = int(sizes[name])
        parse_size(sizes.get(name), f"--budget {name}")
    return sizes


def budget_document(budget: Budget | None) -> dict[str, Any] | None:
    if budget is None:
        return None
    return asdict(budget)


# -- a quiet TensorFlow -------------------------------------------------------------------------


@contextlib.contextmanager
def without_noise(debug: bool) -> Iterator[None]:
    """Inside, of all warnings only those of tfmix are shown, as one line each."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, ConversionWarning):
            print(f"tfmix: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = show
        yield


def import_tensorflow(debug: bool = False) -> None:
    """Imports TensorFlow without what it logs while it does; every command that needs it begins
    so."""
    if "tensorflow" in sys.modules or debug:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_held_back():
        import tfmix.api  # noqa: F401
    for logger in ("absl", "tensorflow"):
        logging.getLogger(logger).setLevel(logging.ERROR)


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Shown after all where there is an error. Also of C++, which writes to the descriptor."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


# -- text ---------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Columns side by side; right: those that are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:>{width}}" if index in right else f"{cell:<{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
