"""The kernel sources are found where the package says, in a checkout and in an installation."""

import re
from pathlib import Path

import pytest

from tfmix.errors import TfmixError
from tfmix.export import kernel_sources
from tfmix.export.kernel_sources import kernels_directory

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_has_its_own():
    assert kernels_directory() == ROOT / "kernels"


def test_the_wheel_takes_what_the_manual_names():
    """docs/firmware.md, "What you copy", against setup.py."""
    setup = (ROOT / "setup.py").read_text()
    packed = re.findall(r'"([^"]+)"', re.search(r"FIRMWARE_SOURCES = \((.+?)\)", setup).group(1))
    assert all((kernels_directory() / name).exists() for name in packed)
    manual = (ROOT / "docs" / "firmware.md").read_text().split("## What you copy")[1]
    named = set(re.findall(r"`kernels/([\w.]+)", manual.split("\n## ")[0]))
    assert named == set(packed)


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    inside = tmp_path / "site-packages" / "tfmix"
    (inside / "kernels" / "include" / "tfmix").mkdir(parents=True)
    (inside / "kernels" / "include" / "tfmix" / "kernels.h").touch()
    monkeypatch.setattr(kernel_sources, "_PACKAGE", inside)
    assert kernels_directory() == inside / "kernels"


def test_an_installation_without_them_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_sources, "_PACKAGE", tmp_path / "tfmix")
    with pytest.raises(TfmixError, match="install tfmix again"):
        kernels_directory()
