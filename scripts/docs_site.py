"""mkdocs hook: pages from files outside docs/, and links that hold both there and on the site.

README, changelog and measured results stay where they are and become pages; `<!-- section: FILE:
TITLE -->` in a page stands for one section of such a file. Links between files of the repository
become links between pages; of a link to a file that is no page, as a source, the text stays. A link
to nothing ends the build, as every warning of mkdocs does.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

#: Page -> the file of the repository that it shows.
PAGES = {
    "index.md": "README.md",
    "results.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_SECTION = re.compile(r"<!-- section: (\S+): (.+?) -->")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
_log = logging.getLogger("mkdocs.hooks.docs_site")


def on_files(files: Any, config: Any) -> Any:
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    name = page.file.src_uri
    source = ROOT / PAGES.get(name, f"docs/{name}")
    markdown = _relink(markdown, source, name)
    return _SECTION.sub(lambda m: _relink(_section(m[1], m[2]), ROOT / m[1], name), markdown)


def _section(file: str, title: str) -> str:
    """The text under a heading of the second level."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", (ROOT / file).read_text(), re.M | re.S
    )
    if found is None:
        _log.warning("%s has no section %r", file, title)
        return ""
    return found[1].strip()


def _relink(markdown: str, source: Path, page: str) -> str:
    """The text of `source` with its links as seen from `page`. Code is left alone."""
    texts, codes = _CODE.split(markdown), _CODE.findall(markdown)
    texts = [_LINK.sub(lambda match: _link(match, source, page), text) for text in texts]
    return "".join(itertools.chain.from_iterable(zip(texts, [*codes, ""], strict=True)))


def _link(match: re.Match[str], source: Path, page: str) -> str:
    picture, text, address = match.groups()
    path, hash_mark, anchor = address.partition("#")
    if re.match(r"[a-z]+:", address) or not path:
        return match[0]
    target = Path(os.path.normpath(source.parent / path))
    if not target.exists():
        _log.warning("%s: a link to %s, which is not there", source.relative_to(ROOT), path)
        return match[0]
    from_root = target.relative_to(ROOT).as_posix()
    pages = {file: name for name, file in PAGES.items()}
    if target.is_relative_to(DOCS):
        uri = target.relative_to(DOCS).as_posix()
    elif from_root in pages:
        uri = pages[from_root]
    else:
        return text
    relative = os.path.relpath(uri, Path(page).parent)
    return f"{picture}[{text}]({relative}{hash_mark}{anchor})"
