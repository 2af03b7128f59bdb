"""The parameter structs of the C API, and the names of its kernel variants.

The same bytes travel three ways: by pointer from Python into the host kernels, in the custom
options of the exported file, and into the firmware. kernels/include/tfmix/kernels.h declares the
structs for C; a test holds the two declarations together. Every field is a 4-byte little-endian
integer, so there is no padding to agree on.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from itertools import product

from tfmix.errors import FormatError
from tfmix.integer.model import BINARY_KERNELS, WEIGHTED_KERNELS, Kernel
from tfmix.ir.quant import BIT_WIDTHS

_i32 = ctypes.c_int32


class _Struct(ctypes.LittleEndianStructure):
    _pack_ = 1

    def values(self) -> dict[str, int]:
        return {name: getattr(self, name) for name, *_ in self._fields_}


def _fields(names: str) -> list[tuple[str, type]]:
    return [(name, _i32) for name in names.split()]


_WINDOW = (
    "input_height input_width input_channels output_height output_width output_channels "
    "kernel_height kernel_width stride_height stride_width pad_top pad_left "
)


class ConvParams(_Struct):
    """conv2d and depthwise_conv2d. depth multiplier = output_channels / input_channels."""

    _fields_ = _fields(_WINDOW + "input_zero_point output_zero_point left_shift multiplier_count")


class FullyConnectedParams(_Struct):
    _fields_ = _fields(
        "input_features output_features output_zero_point left_shift multiplier_count"
    )


class AddParams(_Struct):
    _fields_ = _fields("elements multiplier_a multiplier_b offset shift output_zero_point")


class MultiplyParams(_Struct):
    """Element i of the first input times element i modulo second_elements of the second."""

    _fields_ = _fields(
        "elements second_elements zero_point_a zero_point_b output_zero_point multiplier left_shift"
    )


class ConcatenateParams(_Struct):
    """Followed by `input_count` ConcatenateInput."""

    _fields_ = _fields("pixels output_channels output_zero_point input_count")


class ConcatenateInput(_Struct):
    _fields_ = _fields("channels bits zero_point multiplier left_shift")


class RequantizeParams(_Struct):
    _fields_ = _fields("elements input_zero_point output_zero_point multiplier left_shift")


class LookupParams(_Struct):
    _fields_ = _fields("elements output_zero_point")


class AveragePoolParams(_Struct):
    _fields_ = _fields(_WINDOW + "input_zero_point output_zero_point multiplier left_shift")


class MaxPoolParams(_Struct):
    _fields_ = _fields(_WINDOW)


class PadParams(_Struct):
    _fields_ = _fields(
        "input_height input_width channels pad_top pad_bottom pad_left pad_right zero_point"
    )


class SoftmaxParams(_Struct):
    _fields_ = _fields("rows classes table_size")


#: The struct each kernel takes.
PARAMS: dict[Kernel, type[_Struct]] = {
    Kernel.CONV2D: ConvParams,
    Kernel.DEPTHWISE_CONV2D: ConvParams,
    Kernel.FULLY_CONNECTED: FullyConnectedParams,
    Kernel.ADD: AddParams,
    Kernel.MULTIPLY: MultiplyParams,
    Kernel.CONCATENATE: ConcatenateParams,
    Kernel.REQUANTIZE: RequantizeParams,
    Kernel.LOOKUP: LookupParams,
    Kernel.AVERAGE_POOL: AveragePoolParams,
    Kernel.MAX_POOL: MaxPoolParams,
    Kernel.PAD: PadParams,
    Kernel.SOFTMAX: SoftmaxParams,
}


def variant_name(
    kernel: Kernel,
    *,
    input_bits: tuple[int, ...],
    output_bits: int,
    weight_bits: int | None = None,
    per_channel: bool | None = None,
) -> str:
    """Name of a kernel variant, for instance `conv2d_a8w4o2_pc`.

    a, b: bits of the first and second input; w: of the weights; o: of the output; pc and pl: one
    weight zero point per channel or per layer. Only what the code depends on is in the name.
    """
    a, o = input_bits[0], output_bits
    if kernel in WEIGHTED_KERNELS:
        return f"{kernel.value}_a{a}w{weight_bits}o{o}_{'pc' if per_channel else 'pl'}"
    if kernel in BINARY_KERNELS:
        return f"{kernel.value}_a{a}b{input_bits[1]}o{o}"
    if kernel is Kernel.CONCATENATE:
        return f"concatenate_o{o}"
    if kernel in (Kernel.REQUANTIZE, Kernel.LOOKUP, Kernel.AVERAGE_POOL):
        return f"{kernel.value}_a{a}o{o}"
    if kernel is Kernel.SOFTMAX:
        return "softmax_a8o8"
    return f"{kernel.value}_a{a}"  # max_pool, pad: the output keeps the input's bits


def all_variants() -> tuple[str, ...]:
    """Every variant there is; kernels/include/tfmix/variants.inc stamps out exactly these."""
    names = []
    for kernel in Kernel:
        for (a, b, w, o), pc in product(product(BIT_WIDTHS, repeat=4), (True, False)):
            if kernel is Kernel.SOFTMAX and (a, o) != (8, 8):
                continue
            names.append(
                variant_name(
                    kernel, input_bits=(a, b), output_bits=o, weight_bits=w, per_channel=pc
                )
            )
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Variant:
    """What the name of a variant says; None where it says nothing."""

    kernel: Kernel
    a: int | None
    b: int | None
    weight_bits: int | None
    output_bits: int | None
    per_channel: bool | None

    @property
    def tags(self) -> tuple[str, ...]:
        """The parts of the name, as the macros of variants.inc pass them."""
        bits = (self.a, self.b, self.weight_bits, self.output_bits)
        tags = tuple(str(b) for b in bits if b is not None)
        if self.per_channel is None:
            return tags
        return (*tags, "pc" if self.per_channel else "pl")


_VARIANT = re.compile(
    rf"({'|'.join(kernel.value for kernel in Kernel)})_"
    r"(?:a(\d))?(?:b(\d))?(?:w(\d))?(?:o(\d))?(?:_(pc|pl))?"
)


@cache
def _variant_set() -> frozenset[str]:
    return frozenset(all_variants())


def parse_variant(name: str) -> Variant:
    """Inverse of `variant_name`. FormatError if there is no such variant."""
    if name not in _variant_set():
        raise FormatError(f"there is no kernel variant {name!r}")
    kernel, *bits, flavour = _VARIANT.fullmatch(name).groups()
    a, b, w, o = (int(digit) if digit else None for digit in bits)
    return Variant(Kernel(kernel), a, b, w, o, flavour == "pc" if flavour else None)
