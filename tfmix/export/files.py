"""Files that are written whole, and all of them or none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from tfmix.errors import TfmixError


def write_all(directory: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Writes `contents`, by file name, into `directory`; older files of these names are replaced.

    The directory is made where it is missing and its parent is there. Either all files are written
    or what was there before is there again, the directory included. Returns the paths. TfmixError
    if something cannot be written.
    """
    made = False
    try:
        try:
            if not directory.is_dir():
                directory.mkdir()
                made = True
            return _replace_all(directory, contents)
        except BaseException:
            if made:
                directory.rmdir()
            raise
    except OSError as error:
        path = error.filename or directory
        raise TfmixError(f"cannot write {path}: {error.strerror}") from error


def _replace_all(directory: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Everything is on the disk beside its place before the first file moves there."""
    tag = secrets.token_hex(4)
    paths = {name: directory / name for name in contents}
    new = {name: directory / f".{name}.{tag}.new" for name in contents}
    old = {name: directory / f".{name}.{tag}.old" for name in contents}
    placed: list[str] = []
    try:
        for name, content in contents.items():
            new[name].write_bytes(content)
        for name, path in paths.items():
            if path.is_file():
                os.replace(path, old[name])
            os.replace(new[name], path)
            placed.append(name)
    except BaseException:
        for name, path in paths.items():
            if old[name].exists():
                os.replace(old[name], path)
            elif name in placed:
                path.unlink()
        raise
    finally:
        for leftover in new.values():
            leftover.unlink(missing_ok=True)
    for replaced in old.values():
        replaced.unlink(missing_ok=True)
    return tuple(paths.values())
