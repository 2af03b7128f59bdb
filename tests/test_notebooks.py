"""The notebooks of colab/: in order, saved with outputs, no logic, nothing of the machine."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def python(path: Path) -> ast.Module:
    """The code, without what only IPython knows."""
    kept = []
    for cell in cells(path, "code"):
        text = source(cell)
        if not text.startswith("%%"):
            kept.append(re.sub(r"^(\s*)[%!].*$", r"\1pass", text, flags=re.M))
    return ast.parse("\n".join(kept))


def test_there_are_five_in_reading_order():
    assert [path.name[0] for path in NOTEBOOKS] == list("12345")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_begins_with_the_same_cell(self, path):
        assert source(cells(path, "code")[0]) == source(cells(NOTEBOOKS[0], "code")[0])

    def test_defines_nothing(self, path):
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(python(path)) if isinstance(node, definitions)]

    def test_is_saved_as_it_ran(self, path):
        """From top to bottom, at once, without an error; with something to see."""
        code = cells(path, "code")
        assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
        kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
        assert kinds and "error" not in kinds

    def test_says_nothing_of_the_machine(self, path):
        outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
        assert not [output for output in outputs if output.get("name") == "stderr"]
        text = "".join(
            "".join(part)
            for output in outputs
            for part in (output.get("text", ""), output.get("data", {}).get("text/plain", ""))
        )
        assert not re.search(
            r"/(home|root|tmp|work|usr|content)/|https?:|Warning|object at 0x", text
        )

    def test_links_lead_somewhere(self, path):
        text = "\n".join(source(cell) for cell in cells(path, "markdown"))
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (path.parent / target).exists(), target
        for target in re.findall(r"`(docs/[\w-]+\.md|examples/\w+\.py|benchmarks/\w+\.\w+)`", text):
            assert (ROOT / target).exists(), target
