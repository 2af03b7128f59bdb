"""Budget: sizes with units, bad sizes, devices."""

import dataclasses

import pytest

from tfmix.budget import DEVICES, KILOBYTE, MEGABYTE, Budget, format_bytes
from tfmix.errors import TfmixError


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("2MB", 2 * 1024 * 1024),
        ("2 MiB", 2 * 1024 * 1024),
        ("512kB", 512 * 1024),
        ("320 KiB", 320 * 1024),
        (" 320 KB ", 320 * 1024),
        ("1.5 MB", 1536 * 1024),
        ("1024 B", 1024),
        ("0.1 kB", 102),  # no part of a byte
        (2_048_000, 2_048_000),
        (4096.0, 4096),
        (None, None),
    ],
)
def test_sizes(size, expected):
    budget = Budget(flash=size, ram=size)
    assert budget.flash == budget.ram == expected
    assert all(type(s) in (int, type(None)) for s in (budget.flash, budget.ram))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("2 GB", r"unit 'GB' of '2 GB' is not one of \('B', 'kB'"),
        ("512 kb", "unit 'kb'"),
        ("512", "unit ''"),
        ("lots", "'lots' is not a size"),
        ("", "'' is not a size"),
        ("-1 kB", "'-1 kB' is not positive"),
        ("0 B", "not positive"),
        ("0.0001 kB", "not positive"),
        (-1, "-1 is not positive"),
        (0, "0 is not positive"),
        (True, "True is neither"),
        (1.5, "1.5 is neither"),
        (float("nan"), "nan is neither"),
        ([1], "neither"),
    ],
)
@pytest.mark.parametrize("field", ["flash", "ram"])
def test_bad_sizes_name_the_field_and_the_value(field, size, message):
    with pytest.raises(TfmixError, match=f"^{field}: .*{message}"):
        Budget(**{field: size})


def test_bad_accounting():
    with pytest.raises(TfmixError, match=r"'napkin' is not one of \('deployed', 'paper'\)"):
        Budget("2MB", "512kB", accounting="napkin")


def test_is_a_value():
    budget = Budget("2MB", "512kB")
    assert budget == Budget(2 * MEGABYTE, 512 * KILOBYTE) != Budget("2MB", "512kB", "paper")
    assert len({budget, Budget("2 MiB", "512 KiB")}) == 1
    assert dataclasses.replace(budget, ram="1 kB").ram == 1024
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.ram = 1


@pytest.mark.parametrize(
    "budget",
    [Budget("2MB", "512kB"), Budget(2_048_000, 512_001, "paper"), Budget("1.3 MB"), Budget()],
)
def test_repr_can_be_evaluated(budget):
    assert eval(repr(budget)) == budget


def test_repr_reads_well():
    expected = "Budget(flash='2 MB', ram=None, accounting='deployed')"
    assert repr(Budget(2 * MEGABYTE)) == expected


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (784, "784 B"),
        (1024, "1 kB"),
        (37_800, "36.9 kB"),
        (512 * 1024, "512 kB"),
        (MEGABYTE - 1, "1024 kB"),
        (1_984_884, "1.89 MB"),
        (2_048_000, "2000 kB"),
        (2 * MEGABYTE, "2 MB"),
    ],
)
def test_format_bytes(size, text):
    assert format_bytes(size) == text


# -- devices ------------------------------------------------------------------------------------


def test_for_device():
    budget = Budget.for_device("STM32H743")
    assert budget == Budget("2MB", "512kB") == Budget.for_device("stm32h743zi")


def test_for_device_with_less_than_all():
    budget = Budget.for_device("rp2040", flash="2 MB", ram="200 kB", accounting="paper")
    assert budget == Budget("2MB", "200kB", "paper")


def test_unknown_device_lists_those_there_are():
    with pytest.raises(TfmixError, match="unknown device 'z80'; known are .*stm32h743.*rp2040"):
        Budget.for_device("z80")


@pytest.mark.parametrize("name", DEVICES)
def test_devices_are_plausible_and_name_their_source(name):
    device = DEVICES[name]
    budget = Budget.for_device(name)
    assert name == name.lower() and device.part.lower().startswith(name)
    assert (budget.flash, budget.ram) == (device.flash, device.ram)
    assert device.ram < device.flash and device.ram % KILOBYTE == 0
    assert device.data_sheet and device.core.startswith("Cortex-M")


# -- streaming ----------------------------------------------------------------------------------


def test_streaming():
    assert Budget(ram=1000).streaming == "auto" and Budget(ram=1000).streaming_ram == 1000
    assert Budget(ram=1000, streaming="off").streaming_ram is None
    assert Budget(ram=1000, accounting="paper").streaming_ram is None  # it cannot count that
    assert Budget(flash=1000).streaming_ram is None
    off = Budget.for_device("stm32h743", streaming="off")
    assert off.streaming == "off" and eval(repr(off)) == off
    with pytest.raises(TfmixError, match=r"streaming 'on' is not one of \('auto', 'off'\)"):
        Budget(streaming="on")
