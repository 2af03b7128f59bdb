"""Long benchmarks in pieces: a run that is finished is on record, and not done again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Records:
    """records.jsonl in `folder`: a JSON object a line for each finished run, found by its keys."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._path = folder, folder / "records.jsonl"
        self._path.touch()
        text = self._path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # a line without its end was being written
        os.truncate(self._path, len(whole))
        self._records = [json.loads(line) for line in whole.splitlines()]

    def all(self, **wanted: Any) -> list[dict[str, Any]]:
        return [r for r in self._records if all(r.get(key) == wanted[key] for key in wanted)]

    def find(self, **wanted: Any) -> dict[str, Any] | None:
        return next(iter(self.all(**wanted)), None)

    def add(self, **record: Any) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps(record) + "\n")
        self._records.append(record)

    def run(self, make: Callable[[], Mapping[str, Any]], **key: Any) -> dict[str, Any]:
        """The record under `key`; what `make` gives is added first, unless it is there."""
        if self.find(**key) is None:
            print("--", ", ".join(f"{name} {value}" for name, value in key.items()), flush=True)
            self.add(**key, **make(), time=time.strftime("%Y-%m-%d %H:%M:%S"))
        return self.find(**key)
