"""Lists the parts that --device knows: FLASH, and the largest contiguous block of RAM."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tfmix.budget import DEVICES, format_bytes
from tfmix.cli.common import Outcome, table

HELP = "list the parts that --device knows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> Outcome:
    rows = [("name", "part", "core", "FLASH", "RAM", "note")]
    rows += [
        (name, d.part, d.core, format_bytes(d.flash), format_bytes(d.ram), d.note)
        for name, d in DEVICES.items()
    ]
    return Outcome(
        {"devices": [{"name": name, **asdict(device)} for name, device in DEVICES.items()]},
        table(rows, right=(3, 4)),
    )
