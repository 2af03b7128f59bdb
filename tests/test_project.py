"""What is said twice about the project agrees: versions, tools, the pages of the API."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text()


def public_names() -> set[str]:
    for node in ast.parse(text("tfmix/__init__.py")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError("tfmix/__init__.py has no __all__")


def test_the_changelog_begins_with_this_version():
    version = re.search(r'__version__ = "(\d+\.\d+\.\d+)"', text("tfmix/version.py")).group(1)
    newest = re.search(r"^## (\S+?),", text("CHANGELOG.md"), re.M).group(1)
    assert newest in (version, "Unreleased")


def test_pre_commit_has_the_tools_of_make_lint():
    """The same versions."""
    pinned = r'"((?:ruff|clang-format)==[\d.*]+)"'
    tests_extra = re.search(r"^test = \[(.*?)^\]", text("pyproject.toml"), re.M | re.S).group(1)
    here = set(re.findall(pinned, text(".pre-commit-config.yaml")))
    assert here == set(re.findall(pinned, tests_extra)) and len(here) == 2


def test_the_api_page_has_every_public_name():
    listed = {line.split(".")[-1] for line in re.findall(r"^::: (\S+)", text("docs/api.md"), re.M)}
    listed |= {"TfmixError", *re.findall(r"^class (\w+)", text("tfmix/errors.py"), re.M)}
    assert public_names() - {"__version__"} <= listed


def test_what_the_api_page_lists_is_there():
    for dotted in re.findall(r"^::: (\S+)", text("docs/api.md"), re.M):
        *module, name = dotted.split(".")
        path = ROOT / Path(*module).with_suffix(".py")
        if path.exists():
            definitions = [getattr(node, "name", None) for node in ast.parse(path.read_text()).body]
            assert name in definitions, dotted
        else:
            assert (ROOT / Path(*module, name)).with_suffix(".py").exists(), dotted


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r": ([\w/-]+\.md)$", text("mkdocs.yml"), re.M))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages <= navigation
