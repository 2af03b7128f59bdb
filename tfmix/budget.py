"""`Budget`: how much FLASH and RAM the deployed network may take, and what real parts offer.

Sizes read as in the data sheets of microcontrollers: 1 kB = 1 KiB = 1024 bytes and
1 MB = 1 MiB = 1024 kB, whatever the spelling. The papers count in thousands; an int is bytes, so
their limits are `Budget(flash=2_048_000, ram=512_000)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Literal

from tfmix.errors import TfmixError

KILOBYTE = 1024
MEGABYTE = 1024 * KILOBYTE

#: A lower-case b stands for bits in data sheets, so "512kb" is refused rather than guessed at.
UNITS = {
    "B": 1,
    "kB": KILOBYTE,
    "KB": KILOBYTE,
    "KiB": KILOBYTE,
    "MB": MEGABYTE,
    "MiB": MEGABYTE,
}

#: "deployed": the size of the exported file, and of the tensor arena with scratch, alignment and
#: what the interpreter keeps there. "paper": the formulas of Rusci et al. 2020, to reproduce their
#: tables.
ACCOUNTINGS = ("deployed", "paper")
Accounting = Literal["deployed", "paper"]
#: "auto": layers may run row by row where the RAM does not hold their tensors whole
#: (docs/streaming.md). "off": every layer is a kernel call of its own.
STREAMINGS = ("auto", "off")
Streaming = Literal["auto", "off"]

#: What `Budget` takes as a size.
Size = str | int | float | None


@dataclass(frozen=True, init=False, repr=False)
class Budget:
    """Limits in bytes; None is no limit.

    Args:
      flash, ram: "2MB", "512 kB", "320 KiB", "1.5 MB", "1024 B", or bytes as an int; held as int.
      accounting: how the network's bytes are counted, one of `ACCOUNTINGS`.
      streaming: whether layers may run row by row, one of `STREAMINGS`. The paper's accounting has
        no way to count that, and never does it.

    Raises TfmixError for an unknown unit, a size that is not a positive number of bytes, an unknown
    accounting or streaming.
    """

    flash: int | None
    ram: int | None
    accounting: Accounting = "deployed"
    streaming: Streaming = "auto"

    def __init__(
        self,
        flash: Size = None,
        ram: Size = None,
        accounting: Accounting = "deployed",
        streaming: Streaming = "auto",
    ) -> None:
        if accounting not in ACCOUNTINGS:
            raise TfmixError(f"accounting {accounting!r} is not one of {ACCOUNTINGS}")
        if streaming not in STREAMINGS:
            raise TfmixError(f"streaming {streaming!r} is not one of {STREAMINGS}")
        object.__setattr__(self, "flash", parse_size(flash, "flash"))
        object.__setattr__(self, "ram", parse_size(ram, "ram"))
        object.__setattr__(self, "accounting", accounting)
        object.__setattr__(self, "streaming", streaming)

    @classmethod
    def for_device(
        cls,
        name: str,
        *,
        flash: Size = None,
        ram: Size = None,
        accounting: Accounting = "deployed",
        streaming: Streaming = "auto",
    ) -> Budget:
        """All of the FLASH and of the largest contiguous RAM of a part in `DEVICES`.

        Args:
          name: case does not matter; the short name or the full part number.
          flash, ram: instead of the part's own, say what the application leaves to the network.
          accounting: as in Budget.

        Raises TfmixError with the names there are, if the part is unknown.
        """
        wanted = str(name).lower()
        for key, device in DEVICES.items():
            if wanted in (key, device.part.lower()):
                return cls(
                    device.flash if flash is None else flash,
                    device.ram if ram is None else ram,
                    accounting,
                    streaming,
                )
        raise TfmixError(f"unknown device {name!r}; known are {', '.join(DEVICES)}")

    def __repr__(self) -> str:
        sizes = [
            repr(size if size is None or parse_size(text, "") != size else text)
            for size, text in ((s, s and format_bytes(s)) for s in (self.flash, self.ram))
        ]
        streaming = "" if self.streaming == "auto" else f", streaming={self.streaming!r}"
        return (
            f"Budget(flash={sizes[0]}, ram={sizes[1]}, accounting={self.accounting!r}{streaming})"
        )

    @property
    def streaming_ram(self) -> int | None:
        """The bytes of RAM that layers may run row by row to fit into; None if they may not."""
        return self.ram if self.streaming == "auto" and self.accounting == "deployed" else None


def parse_size(size: Size, what: str) -> int | None:
    """Bytes as a positive int (a fraction of a byte is dropped), or None; `what` for messages."""
    if size is None:
        return None
    if isinstance(size, str):
        size_in_bytes = _parse_text(size, what)
    elif _is_whole(size):
        size_in_bytes = int(size)
    else:
        raise TfmixError(f"{what}: {size!r} is neither whole bytes nor text with a unit")
    if size_in_bytes <= 0:
        raise TfmixError(f"{what}: {size!r} is not positive; None means no limit")
    return size_in_bytes


def _is_whole(size: object) -> bool:
    """Whether `size` is a whole number; True and False are not."""
    if isinstance(size, float):
        return size.is_integer()
    return isinstance(size, Integral) and not isinstance(size, bool)


def _parse_text(size: str, what: str) -> int:
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", size)
    if match is None:
        raise TfmixError(f'{what}: {size!r} is not a size; write for instance "512 kB"')
    number, unit = match.groups()
    if unit not in UNITS:
        raise TfmixError(f"{what}: unit {unit!r} of {size!r} is not one of {tuple(UNITS)}")
    return int(Fraction(number) * UNITS[unit])


def format_bytes(size: int) -> str:
    """A size for people: "784 B", "36.9 kB", "512 kB", "1.89 MB"."""
    if abs(size) < KILOBYTE:
        return f"{size} B"
    unit, name = (MEGABYTE, "MB") if abs(size) >= MEGABYTE else (KILOBYTE, "kB")
    if size % unit and size % KILOBYTE == 0 and abs(size) < 10 * MEGABYTE:
        unit, name = KILOBYTE, "kB"  # 2000 kB is exact, 1.95 MB would not be
    number = size / unit
    return f"{number:.3g} {name}" if size % unit and abs(number) < 100 else f"{number:.0f} {name}"


@dataclass(frozen=True)
class Device:
    """What a part offers, in bytes.

    flash:       on-chip, or what `note` says
    ram:         the largest contiguous block, which is what a tensor arena can use
    data_sheet:  where the figures are from
    note:        how RAM is split, where flash is not on the chip
    """

    part: str
    core: str
    flash: int
    ram: int
    data_sheet: str
    note: str = ""


_kB, _MB = KILOBYTE, MEGABYTE

#: Short name -> part.
DEVICES: dict[str, Device] = {
    "stm32f407": Device(
        "STM32F407VG", "Cortex-M4F", 1 * _MB, 128 * _kB, "ST DS8626",
        "192 kB of RAM: 112 + 16 kB contiguous, and 64 kB of core-coupled memory",
    ),
    "stm32f411": Device("STM32F411RE", "Cortex-M4F", 512 * _kB, 128 * _kB, "ST DS10314"),
    "stm32f746": Device(
        "STM32F746NG", "Cortex-M7", 1 * _MB, 320 * _kB, "ST DS10916",
        "64 kB DTCM, 240 kB and 16 kB follow each other; 16 kB of ITCM lie apart",
    ),
    "stm32f767": Device(
        "STM32F767ZI", "Cortex-M7", 2 * _MB, 512 * _kB, "ST DS11532",
        "128 kB DTCM, 368 kB and 16 kB follow each other; 16 kB of ITCM lie apart",
    ),
    "stm32g474": Device(
        "STM32G474RE", "Cortex-M4F", 512 * _kB, 128 * _kB, "ST DS12288",
        "80 + 16 kB, followed by the 32 kB of CCM under their second address",
    ),
    "stm32h743": Device(
        "STM32H743ZI", "Cortex-M7", 2 * _MB, 512 * _kB, "ST DS12110",
        "1 MB of RAM: 512 kB AXI; 128 kB DTCM, 64 kB ITCM, 288 kB and 64 kB lie apart",
    ),
    "stm32h7a3": Device(
        "STM32H7A3ZI", "Cortex-M7", 2 * _MB, 1 * _MB, "ST DS13195",
        "1.4 MB of RAM: 1 MB AXI; 128 kB DTCM, 64 kB ITCM, 128 kB and 32 kB lie apart",
    ),
    "stm32l476": Device(
        "STM32L476RG", "Cortex-M4F", 1 * _MB, 96 * _kB, "ST DS10198",
        "128 kB of RAM: 96 kB, and 32 kB that lie apart",
    ),
    "stm32l4r5": Device(
        "STM32L4R5ZI", "Cortex-M4F", 2 * _MB, 640 * _kB, "ST DS12023",
        "192 kB, 64 kB and 384 kB follow each other",
    ),
    "stm32u575": Device(
        "STM32U575ZI", "Cortex-M33", 2 * _MB, 768 * _kB, "ST DS13737",
        "786 kB of RAM: 192, 64 and 512 kB follow each other; 16 kB and 2 kB lie apart",
    ),
    "nrf52832": Device(
        "nRF52832-QFAA", "Cortex-M4F", 512 * _kB, 64 * _kB,
        "Nordic nRF52832 Product Specification",
    ),
    "nrf52840": Device(
        "nRF52840", "Cortex-M4F", 1 * _MB, 256 * _kB, "Nordic nRF52840 Product Specification",
    ),
    "nrf5340": Device(
        "nRF5340", "Cortex-M33", 1 * _MB, 512 * _kB, "Nordic nRF5340 Product Specification",
        "of the application core; the network core has its own 256 kB and 64 kB",
    ),
    "rp2040": Device(
        "RP2040", "Cortex-M0+", 16 * _MB, 264 * _kB, "Raspberry Pi RP-008371-DS",
        "flash is external, 16 MB at most: the board decides (2 MB on a Raspberry Pi Pico), pass "
        "its size as `flash`; RAM is 256 kB in four banks and 2 x 4 kB, contiguous",
    ),
    "mimxrt1064": Device(
        "MIMXRT1064", "Cortex-M7", 4 * _MB, 768 * _kB, "NXP IMXRT1064CEC",
        "1 MB of RAM: 512 kB OCRAM followed by the 256 kB that FlexRAM adds to it by default; "
        "128 kB DTCM and 128 kB ITCM lie apart",
    ),
    "apollo3": Device(
        "Apollo3 Blue", "Cortex-M4F", 1 * _MB, 384 * _kB, "Ambiq Apollo3 Blue SoC Datasheet",
        "64 kB of tightly coupled memory and 320 kB follow each other",
    ),
}  # fmt: skip
