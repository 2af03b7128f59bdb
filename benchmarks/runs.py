"""Long benchmarks in pieces: each finished run is one line of a file, and is not run again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class Runs:
    """Records {"key": [...], ...} in `path`, one JSON object a line, in the order they finished.

    A line torn by a kill is dropped, and its run done again.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records: dict[tuple, dict[str, Any]] = {}
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith("\n"):
            path.write_text("".join(lines[:-1]))
        for line in lines:
            if line.endswith("\n"):
                record = json.loads(line)
                self.records[tuple(record["key"])] = record

    def run(self, key: tuple, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of `key`: from the file, or by doing it now; "minutes" is added."""
        if key not in self.records:
            print(f"# {' '.join(map(str, key))}", flush=True)
            start = time.time()
            record = {"key": list(key), **do()}
            record["minutes"] = round((time.time() - start) / 60, 2)
            with open(self.path, "a") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.records[key] = record
            print(f"  {summary(record)}", flush=True)
        return self.records[key]

    def matching(self, *start: Any) -> Iterator[dict[str, Any]]:
        """The records whose key begins so."""
        for key, record in self.records.items():
            if key[: len(start)] == start:
                yield record


def summary(record: dict[str, Any]) -> str:
    """The record's plain figures in one line."""
    return ", ".join(
        f"{name} {value}" for name, value in record.items() if isinstance(value, (int, float, str))
    )
