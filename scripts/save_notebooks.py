"""Runs the notebooks of colab/ and saves them with what they print and draw.

    .venv/bin/python scripts/save_notebooks.py [colab/1_first_network.ipynb ...]

Standard error is left out, and so is what tells of this machine: times of cells, paths, ids. A run
that fails saves nothing. `make notebooks` runs them and saves nothing at all.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

COLAB = Path(__file__).resolve().parents[1] / "colab"
MIME_TYPES = ("image/png", "text/plain", "text/html")


def run(path: Path) -> NotebookNode:
    """The notebook after a run in its own directory; CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": path.parent}})
    return client.execute()


def clean(notebook: NotebookNode) -> NotebookNode:
    """Without standard error, metadata of cells, and lines that were overwritten on the screen."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = clean_outputs(cell.outputs)
    return notebook


def clean_outputs(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        kept.append(output)
    return [clean_output(output) for output in kept]


def clean_output(output: NotebookNode) -> NotebookNode:
    if output.output_type == "stream":
        output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
    elif "data" in output:
        output.data = {kind: text for kind, text in output.data.items() if kind in MIME_TYPES}
        if "image/png" in output.data:
            output.data.pop("text/plain", None)
        output.metadata = {}
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(COLAB.glob("*.ipynb")))
    for path in parser.parse_args().notebooks:
        start = time.time()
        notebook = clean(run(path.resolve()))
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
