"""Reads tests/golden/format.txt: lines of words and decimals, "=", and the bytes they become."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GOLDEN_PATH = Path(__file__).parent / "golden" / "format.txt"


@dataclass(frozen=True)
class Case:
    """words: what stands before "=", split at blanks."""

    line: str
    words: tuple[str, ...]
    data: bytes

    def __str__(self) -> str:  # the test's id
        return " ".join(self.words)[:60]

    def section(self, key: str) -> list[str]:
        """The words after `key`, up to the next word that is not a number."""
        rest = self.words[self.words.index(key) + 1 :]
        end = next((i for i, word in enumerate(rest) if word[0].isalpha()), len(rest))
        return list(rest[:end])

    def ints(self, key: str) -> list[int]:
        return [int(word) for word in self.section(key)]


def cases(kind: str) -> list[Case]:
    """The cases whose first word is `kind`."""
    found = []
    for line in GOLDEN_PATH.read_text().splitlines():
        if line.startswith(f"{kind} "):
            text, _, data = line.partition("=")
            found.append(Case(line, tuple(text.split()), bytes.fromhex(data)))
    return found
