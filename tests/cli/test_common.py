"""Budgets on the command line."""

import argparse

import pytest

from tfmix.budget import Budget
from tfmix.cli.common import add_budget, budget_of, table
from tfmix.errors import TfmixError


def budget(*argv: str) -> Budget | None:
    parser = argparse.ArgumentParser()
    add_budget(parser)
    return budget_of(parser.parse_args(argv))


def test_budgets():
    assert budget() is None
    assert budget("--budget", "flash=2MB,ram=512kB") == Budget("2MB", "512kB")
    assert budget("--budget", " ram = 1000 ") == Budget(None, 1000)
    assert budget("--budget", "flash=1MB,accounting=paper") == Budget("1MB", None, "paper")
    assert budget("--device", "stm32h743") == Budget.for_device("stm32h743")
    assert budget("--device", "rp2040", "--budget", "flash=2MB") == Budget.for_device(
        "rp2040", flash="2MB"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget", "flash"], "'flash' is not one of flash=SIZE"),
        (["--budget", "rom=2MB"], "'rom=2MB' is not one of flash=SIZE"),
        (["--budget", "ram=1kB,ram=2kB"], "'ram=2kB' is not one of .* each once"),
        (["--budget", "ram=512kb"], "--budget ram: unit 'kb' of '512kb'"),
        (["--budget", "ram=0"], "--budget ram: 0 is not positive"),
        (["--budget", "ram=1kB,accounting=true"], "accounting 'true' is not one of"),
        (["--device", "stm32"], "unknown device 'stm32'; known are stm32f407"),
    ],
)
def test_what_is_no_budget(argv, message):
    with pytest.raises(TfmixError, match=message):
        budget(*argv)


def test_a_table_is_aligned():
    assert table([("a", "B"), ("long", "12")], right=(1,)) == "a      B\nlong  12"
