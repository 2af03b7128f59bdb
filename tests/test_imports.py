"""Imports point one way, from api down to errors."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What each part of the package may import of the others. Parts not named: `__init__`, `api` and
#: the command line put everything together; `version` stands alone.
ALLOWED = {
    "errors": set(),
    "budget": {"errors"},
    "registration": set(),  # imports fakequant by its name, when Keras comes
    "models": {"errors"},
    "ir": {"errors"},
    "frontend": {"errors", "ir"},
    "policy": {"errors", "ir", "budget"},
    "fakequant": {"errors", "ir", "budget", "frontend", "policy"},
    "integer": {"errors", "ir", "frontend", "policy", "fakequant"},
    "export": {"errors", "ir", "policy", "integer", "version"},
    "search": {"errors", "ir", "budget", "policy", "fakequant", "export"},
    "report": {
        *("errors", "ir", "budget", "policy", "fakequant", "integer", "export", "search"),
        "version",
    },
}


def imports_of(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files_of(part: str) -> list[Path]:
    module = ROOT / "tfmix" / f"{part}.py"
    return [module] if module.exists() else sorted((ROOT / "tfmix" / part).rglob("*.py"))


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_stands_below_it(part):
    files = files_of(part)
    assert files
    for path in files:
        used = {name.split(".")[1] for name in imports_of(path) if name.startswith("tfmix.")}
        assert used - {part} <= ALLOWED[part], path


def test_every_part_is_ruled():
    parts = {path.stem for path in (ROOT / "tfmix").iterdir() if path.suffix == ".py"}
    parts |= {p.name for p in (ROOT / "tfmix").iterdir() if (p / "__init__.py").exists()}
    assert parts - {"__init__", "__main__", "api", "cli", "version"} == set(ALLOWED)


@pytest.mark.parametrize(
    ("package", "importers"),
    [
        ("tensorflow_model_optimization", {"tfmix/fakequant/_tfmot.py"}),
        (
            "tensorflow",
            {
                *("tfmix/frontend", "tfmix/fakequant", "tfmix/integer", "tfmix/export"),
                *("tfmix/search", "tfmix/report", "tfmix/cli"),
            },
        ),
        ("keras", {"tfmix/frontend"}),
        (
            "tf_keras",
            {"tfmix/frontend", "tfmix/fakequant", "tfmix/integer", "tfmix/search", "tfmix/api.py"}
            | {"tfmix/models.py", "tfmix/report"},
        ),
    ],
)
def test_frameworks_are_imported_in_their_place(package, importers):
    for path in (ROOT / "tfmix").rglob("*.py"):
        if any(name.split(".")[0] == package for name in imports_of(path)):
            place = path.relative_to(ROOT).as_posix()
            assert any(place == i or place.startswith(i + "/") for i in importers), place


def test_keras_3_is_imported_only_where_a_model_of_it_is_at_hand():
    for path in (ROOT / "tfmix").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            assert "keras" not in {name.split(".")[0] for name in names}, path
