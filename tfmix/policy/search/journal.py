"""The journal of a search: all it has measured, in a file, so that nothing is measured twice.

JSON, one object a line; the file only ever grows. The first line says which search it is: method,
options, seed, budget, pinned bits, network, and what the caller says of data and weights. Then one
line for each value, in the order in which they came:

    {"trial": 12, "asked": {...}, "value": 0.83, "flash_bytes": 27912, "ram_bytes": 24576}
    {"estimate": {... a sensitivity table ...}}

A line is on the disk before the search goes on. A search killed at any point therefore loses at
most the value that was being written: a last line without its end is dropped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfmix.errors import FormatError, TfmixError
from tfmix.ir.graph import Graph
from tfmix.policy.search.base import SearchProblem, Trial
from tfmix.policy.sensitivity import SensitivityTable

try:
    import fcntl
except ImportError:  # not a POSIX system: two searches on one journal go unnoticed there
    fcntl = None  # type: ignore[assignment]

JOURNAL_FORMAT = "tfmix.SearchJournal"
JOURNAL_VERSION = 1


class Journal:
    """An open journal: what it holds, and a way to add to it. `close` it, or use it with `with`.

    estimate: the table a search estimated, None if it has not
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        """Opens the journal at `path`, or begins one.

        FormatError where the file is no journal or is damaged before its end; TfmixError where it
        belongs to another search than `header` says, naming what differs, is in use by another
        search, or cannot be written.
        """
        self.path = Path(path)
        self.estimate: SensitivityTable | None = None
        self._values: dict[int, dict[str, Any]] = {}
        try:
            self._file = open(self.path, "a+b")  # noqa: SIM115  closed by `close`
            try:
                self._lock()
                self._load(header)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise TfmixError(f"cannot use the journal {self.path}: {error.strerror}") from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """The number of values it holds."""
        return len(self._values)

    def find(self, index: int, trial: Trial) -> dict[str, Any] | None:
        """The record of the search's trial number `index`; None if it holds none.

        TfmixError if that trial asked for something else: another version of the method wrote it.
        """
        record = self._values.get(index)
        if record is not None and record["asked"] != asked(trial):
            raise TfmixError(
                f"{self.path}: trial {index} was another one when the journal was written, by "
                "another version of tfmix or of the search method; begin a new journal"
            )
        return record

    def add_value(self, index: int, trial: Trial, record: Mapping[str, Any]) -> None:
        """record: the value, and whatever else is to be known of the trial; JSON values."""
        self._append({"trial": index, "asked": asked(trial), **record})

    def add_estimate(self, table: SensitivityTable) -> None:
        self._append({"estimate": table.to_document()})

    # -- the file -----------------------------------------------------------------------------

    def _lock(self) -> None:
        """Against other processes, until it is closed or this one dies."""
        if fcntl is None:
            return
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise TfmixError(
                f"the journal {self.path} is in use by another process; wait for it, or give this "
                "search a journal of its own"
            ) from None

    def _append(self, record: Mapping[str, Any]) -> None:
        self._write(record)
        self._take(json.loads(_line(record)))

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TfmixError(f"cannot write the journal {self.path}: {error.strerror}") from error

    def _load(self, header: Mapping[str, Any]) -> None:
        header = {"format": JOURNAL_FORMAT, "version": JOURNAL_VERSION, **header}
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole == 0:
            if not _line(header).startswith(content[: len(_MARK)]):
                raise FormatError(f"{self.path} is not the journal of a search")
            self._file.truncate(0)  # killed while the first line was written
            self._write(header)
            return
        lines = content[:whole].splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("not an object")
                if number > 1:
                    self._take(record)
            except (ValueError, KeyError, TypeError) as error:
                raise FormatError(f"{self.path}, line {number}: damaged ({error})") from None
            if number == 1:
                self._check_header(record, json.loads(_line(header)))
        self._file.truncate(whole)

    def _take(self, record: dict[str, Any]) -> None:
        if "estimate" in record:
            self.estimate = SensitivityTable.from_document(record["estimate"])
        else:
            float(record["value"]), record["asked"]
            self._values[int(record["trial"])] = record

    def _check_header(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if found.get("format") != JOURNAL_FORMAT:
            raise FormatError(f"{self.path} is not the journal of a search")
        if found.get("version") != JOURNAL_VERSION:
            raise FormatError(
                f"{self.path}: journal of version {found.get('version')!r}; this library reads "
                f"{JOURNAL_VERSION}"
            )
        found, wanted = _flat(found), _flat(wanted)
        differences = [
            f"  - {key}: {found.get(key)!r} there, {wanted.get(key)!r} here"
            for key in dict.fromkeys((*found, *wanted))
            if found.get(key) != wanted.get(key)
        ]
        if differences:
            raise TfmixError(
                f"the journal {self.path} belongs to another search:\n" + "\n".join(differences)
            )


def header(
    method: str, problem: SearchProblem, options: Mapping[str, Any], identity: str
) -> dict[str, Any]:
    """What makes a search the one it is, as JSON values.

    identity: of what the search cannot see, data and weights for instance.
    TfmixError for options that JSON cannot hold.
    """
    budget, memory, start = problem.budget, problem.memory, problem.start()
    try:
        json.dumps(dict(options), default=_document)
    except (TypeError, ValueError) as error:
        raise TfmixError(f"options of search {method!r} cannot be journaled: {error}") from None
    return {
        "method": method,
        "options": dict(options),
        "seed": problem.seed,
        "budget": {
            "flash": budget.flash,
            "ram": budget.ram,
            "accounting": budget.accounting,
            # Tells apart memory models that count under the same name.
            "bytes at most bits": [memory.flash_bytes(start), memory.ram_bytes(start)],
        },
        "pinned": {
            "weights": dict(problem.pinned.weights),
            "activations": dict(problem.pinned.activations),
        },
        "network": fingerprint(problem.graph),
        "identity": identity,
    }


def fingerprint(graph: Graph) -> str:
    """Equal for equal graphs, and in practice for no others: a SHA-256 of all they consist of."""
    return hashlib.sha256(json.dumps(asdict(graph), sort_keys=True).encode()).hexdigest()


def asked(trial: Trial) -> dict[str, Any]:
    """All of a trial that its value depends on, as JSON values."""
    return {
        "weight_bits": dict(trial.policy.weight_bits),
        "activation_bits": dict(trial.policy.activation_bits),
        "measure": trial.measure,
        "train": trial.train,
        "float_activations": trial.float_activations,
    }


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, default=_document, allow_nan=False) + "\n").encode()


#: How every journal begins.
_MARK = f'{{"format": "{JOURNAL_FORMAT}"'.encode()


def _document(value: Any) -> Any:
    if isinstance(value, SensitivityTable):
        return value.to_document()
    raise TypeError(f"{value!r} is not a JSON value")


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
