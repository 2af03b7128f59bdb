"""Custom options of an operator: a header, the kernel's parameter struct, and sometimes a name.

docs/format.md shows them byte by byte. The bridge on the device reads the header and copies the
struct; what else is here only `load` needs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tfmix.errors import FormatError

MAGIC = b"TFMX"
#: Raised whenever a reader of the old version would misread the new one.
FORMAT_VERSION = 1
#: A custom operator's name is this and the variant's name in capitals.
OP_PREFIX = "TFMIX_"

#: magic, version, size of the header, rank of the output's shape, scale of the output
_HEADER = struct.Struct("<4sHBBf")
#: rows and columns of the first input, where the parameter struct lacks them
_PLANE = struct.Struct("<2i")


def op_name(variant: str) -> str:
    """Name of the custom operator of a kernel variant, for instance TFMIX_CONV2D_A8W4O2_PC."""
    return OP_PREFIX + variant.upper()


def parse_op_name(name: str) -> str:
    """Inverse of `op_name`; whether there is such a variant is for `abi.parse_variant` to say."""
    variant = name.removeprefix(OP_PREFIX).lower()
    if op_name(variant) != name:
        raise FormatError(f"operator {name!r}, {OP_PREFIX} and a variant in capitals expected")
    return variant


@dataclass(frozen=True)
class Header:
    """output_rank: dimensions of the output's shape, batch not counted; output_scale: a float32;
    plane: (rows, columns) of the first input, see `plane_of` in tfmix/integer/lower.py."""

    output_rank: int
    output_scale: float
    plane: tuple[int, int] | None = None

    def pack(self) -> bytes:
        plane = _PLANE.pack(*self.plane) if self.plane else b""
        size = _HEADER.size + len(plane)
        return (
            _HEADER.pack(MAGIC, FORMAT_VERSION, size, self.output_rank, self.output_scale) + plane
        )


def unpack(options: bytes) -> tuple[Header, bytes]:
    """Inverse of `Header.pack`: (header, the bytes after it). FormatError if it is none."""
    if options[:4] != MAGIC:
        raise FormatError(f"custom options begin with {options[:4]!r}, {MAGIC!r} expected")
    if len(options) < _HEADER.size:
        raise FormatError(
            f"custom options of {len(options)} bytes, {_HEADER.size} or more expected"
        )
    _, version, size, rank, scale = _HEADER.unpack_from(options)
    if version > FORMAT_VERSION:
        raise FormatError(
            f"format version {version}, but this tfmix reads versions up to {FORMAT_VERSION}: "
            "update tfmix"
        )
    if version < 1:
        raise FormatError(f"format version {version}, 1 to {FORMAT_VERSION} expected")
    sizes = (_HEADER.size, _HEADER.size + _PLANE.size)
    if size not in sizes or size > len(options):
        raise FormatError(
            f"header of {size} in custom options of {len(options)} bytes, "
            f"{sizes[0]} or {sizes[1]} expected"
        )
    plane = _PLANE.unpack_from(options, _HEADER.size) if size == sizes[1] else None
    if plane and min(plane) < 1:
        raise FormatError(f"input plane of {plane[0]} x {plane[1]}, at least 1 x 1 expected")
    return Header(rank, scale, plane), options[size:]
