"""What each tensor's bits cost in accuracy: the table that an optimal policy is computed from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfmix.errors import FormatError, TfmixError
from tfmix.ir.graph import Graph
from tfmix.ir.quant import BIT_WIDTHS

#: Marks a JSON document as a table, and the newest version of it that this module reads.
JSON_FORMAT = "tfmix.SensitivityTable"
JSON_VERSION = 1

_MOST_BITS = BIT_WIDTHS[-1]


@dataclass(frozen=True)
class SensitivityTable:
    """Loss increase of each tensor at each bit-width, all others as they are in the baseline.

    weights:      node name -> {bits: increase in nats a sample}
    activations:  tensor name -> {bits: increase in nats a sample}
    source:       how it was measured, for reports

    Increases at 8 bits may be left out: they are 0 then. So may tensors that have no choice.
    """

    weights: Mapping[str, Mapping[int, float]] = field(hash=False)
    activations: Mapping[str, Mapping[int, float]] = field(hash=False)
    source: str = ""

    def validate(self, graph: Graph) -> None:
        """TfmixError unless every name is one of `graph`'s and every row holds a finite number for
        each bit-width below 8. All problems are listed at once."""
        known = {
            "weights": {node.name for node in graph.weighted_nodes},
            "activations": set(graph.quantized_tensors),
        }
        problems = []
        for kind, name, row in self._rows():
            if name not in known[kind]:
                problems.append(f"{kind}: no {name!r} in the network")
            wanted = set(BIT_WIDTHS[:-1])
            if not wanted <= set(row) <= {*wanted, _MOST_BITS}:
                problems.append(f"{kind} {name!r}: bit-widths {sorted(row)}, not {BIT_WIDTHS}")
            problems += [
                f"{kind} {name!r} at {bits} bits: {value!r} is not a finite number"
                for bits, value in row.items()
                if not math.isfinite(value)
            ]
        if problems:
            lines = "\n".join(f"  - {problem}" for problem in problems)
            raise TfmixError(f"the sensitivity table does not serve this network:\n{lines}")

    def monotone(self) -> SensitivityTable:
        """The same without the noise that cannot be true: nothing negative, and no tensor better
        with fewer bits (an increase at fewer bits is at least that at more). Rows hold all bits."""

        def row(increases: Mapping[int, float]) -> dict[int, float]:
            result, least = {}, 0.0
            for bits in reversed(BIT_WIDTHS):
                least = max(least, increases.get(bits, 0.0))
                result[bits] = least
            return result

        return SensitivityTable(
            {name: row(increases) for name, increases in self.weights.items()},
            {name: row(increases) for name, increases in self.activations.items()},
            self.source,
        )

    def _rows(self) -> Iterator[tuple[str, str, Mapping[int, float]]]:
        for kind in ("weights", "activations"):
            for name, row in getattr(self, kind).items():
                yield kind, name, row

    # -- JSON -------------------------------------------------------------------------------

    def to_document(self) -> dict[str, Any]:
        """What `to_json` writes, as a JSON object."""
        return {
            "format": JSON_FORMAT,
            "version": JSON_VERSION,
            "source": self.source,
            "weights": _with_text_keys(self.weights),
            "activations": _with_text_keys(self.activations),
        }

    def to_json(self) -> str:
        """A JSON object {format, version, source, weights, activations}; keeps the order."""
        return json.dumps(self.to_document(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> SensitivityTable:
        """The inverse of `to_json`. FormatError where `text` is no table, or of another version."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"the sensitivity table is not valid JSON: {error}") from None
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Any) -> SensitivityTable:
        """The inverse of `to_document`, with the errors of `from_json`."""
        if not isinstance(document, dict) or document.get("format") != JSON_FORMAT:
            raise FormatError(f'not a sensitivity table: "format" is not {JSON_FORMAT!r}')
        if document.get("version") != JSON_VERSION:
            raise FormatError(
                f"sensitivity table of version {document.get('version')!r}; this library reads "
                f"{JSON_VERSION}"
            )
        try:
            weights, activations = (
                {
                    str(name): {int(bits): float(value) for bits, value in row.items()}
                    for name, row in document[kind].items()
                }
                for kind in ("weights", "activations")
            )
        except (KeyError, AttributeError, TypeError, ValueError):
            raise FormatError(
                'a sensitivity table has {name: {bits: number}} objects "weights" and "activations"'
            ) from None
        return cls(weights, activations, str(document.get("source", "")))

    # -- reading ----------------------------------------------------------------------------

    def __str__(self) -> str:
        """One line per tensor: the increase at each bit-width."""
        names = [name for _, name, _ in self._rows()]
        width = max(map(len, names), default=0)
        lines = [f"loss increase in nats a sample, {self.source or 'source unknown'}"]
        kind = None
        for row_kind, name, row in self._rows():
            if row_kind != kind:
                kind = row_kind
                head = "".join(f"{f'{bits} bits':>11}" for bits in reversed(BIT_WIDTHS))
                lines.append(f"{kind:<{width + 2}}{head}")
            cells = "".join(f"{row.get(bits, 0.0):>11.4g}" for bits in reversed(BIT_WIDTHS))
            lines.append(f"  {name:<{width}}{cells}")
        return "\n".join(lines)


def _with_text_keys(rows: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, float]]:
    """JSON has no other keys."""
    return {
        name: {str(bits): float(value) for bits, value in row.items()} for name, row in rows.items()
    }
