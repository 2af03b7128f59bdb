"""Prepare functions: exact sizes for what is sound, a telling refusal for all that is not."""

from __future__ import annotations

import ctypes
from itertools import product

import pytest

from tfmix.errors import FormatError, TfmixError
from tfmix.integer import abi
from tfmix.integer.lower import KernelCall
from tfmix.integer.model import BINARY_KERNELS, Kernel
from tfmix.integer.runtime import BufferSizes, prepare

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
SHAPE, WINDOW = "sizes contradict", "window without"
ZERO_POINT, RESCALE, LARGE = "zero point", "multiplier, the number", "too large"

_WINDOW = {
    "input_height": 5,
    "input_width": 4,
    "input_channels": 3,
    "output_height": 3,
    "output_width": 2,
    "output_channels": 6,
    "kernel_height": 3,
    "kernel_width": 2,
    "stride_height": 2,
    "stride_width": 2,
    "pad_top": 1,
    "pad_left": 0,
}
_POOL = {**_WINDOW, "output_channels": 3}
_ZERO_POINTS = {"input_zero_point": 3, "output_zero_point": 15}
_CONV = {**_WINDOW, **_ZERO_POINTS, "left_shift": 0, "multiplier_count": 6}
_RESCALE = {"multiplier": 2**20, "left_shift": 2}

#: variant -> (sound parameters, sizes). Input bits 2, weight bits 2 or 8, output bits 4.
SOUND = {
    "conv2d_a2w8o4_pc": (_CONV, BufferSizes((15,), 24 + 24 + 6 * 20 + 6, 18, 8 * 20)),
    "conv2d_a2w2o4_pl": (
        {**_CONV, "multiplier_count": 1},
        BufferSizes((15,), 24 + 4 + 6 * 6 + 1, 18, 8 * 20),
    ),
    # On its side, the 3 x 2 window has two rows; seven columns, four pairs, make three outputs.
    # Both rows of two pairs of weights are there twice.
    "depthwise_conv2d_a2w8o4_pc": (
        _CONV,
        BufferSizes((15,), 24 + 24 + 36 + 6, 18, 16 * 2 * (4 + 2 * 2)),
    ),
    "fully_connected_a2w2o4_pl": (
        {
            "input_features": 7,
            "output_features": 5,
            "output_zero_point": 15,
            "left_shift": 31,
            "multiplier_count": 1,
        },
        BufferSizes((2,), 20 + 4 + 6 * 2 + 1, 3, 2 * 8),
    ),
    "add_a2b8o4": (
        {
            "elements": 13,
            "multiplier_a": 2**20,
            "multiplier_b": -(2**20),
            "offset": 0,
            "shift": 20,
            "output_zero_point": 0,
        },
        BufferSizes((4, 13), 0, 7, 0),
    ),
    "multiply_a2b8o4": (
        {
            "elements": 15,
            "second_elements": 5,
            "zero_point_a": 3,
            "zero_point_b": 255,
            "output_zero_point": 15,
            **_RESCALE,
        },
        BufferSizes((4, 5), 0, 8, 0),
    ),
    "lookup_a2o4": ({"elements": 13, "output_zero_point": 15}, BufferSizes((4,), 4, 7, 0)),
    "requantize_a2o4": (
        {"elements": 13, **_ZERO_POINTS, **_RESCALE},
        BufferSizes((4,), 0, 7, 0),
    ),
    "average_pool_a2o4": ({**_POOL, **_ZERO_POINTS, **_RESCALE}, BufferSizes((15,), 0, 9, 0)),
    "max_pool_a2": (_POOL, BufferSizes((15,), 0, 5, 0)),
    "pad_a2": (
        {
            "input_height": 2,
            "input_width": 3,
            "channels": 5,
            "pad_top": 0,
            "pad_bottom": 1,
            "pad_left": 2,
            "pad_right": 0,
            "zero_point": 3,
        },
        BufferSizes((8,), 0, 19, 0),
    ),
    "softmax_a8o8": ({"rows": 3, "classes": 7, "table_size": 9}, BufferSizes((21,), 18, 21, 0)),
}


def call(variant: str, params: bytes) -> KernelCall:
    kernel = abi.parse_variant(variant).kernel
    inputs = ("a", "b") if kernel in BINARY_KERNELS else ("a",)
    return KernelCall("node", variant, kernel, params, b"", inputs, "y")


def params(variant: str, **overrides: int) -> bytes:
    struct = abi.PARAMS[abi.parse_variant(variant).kernel]
    return bytes(struct(**{**SOUND[variant][0], **overrides}))


@pytest.mark.parametrize("variant", SOUND)
def test_sizes(variant):
    assert prepare(call(variant, params(variant))) == SOUND[variant][1]


_SIZES = ("height", "width", "channels")
_WINDOW_CASES = [
    *((f"{which}_{size}", 0, SHAPE) for which, size in product(("input", "output"), _SIZES)),
    *((f"{which}_{size}", -1, SHAPE) for which, size in product(("kernel", "stride"), _SIZES[:2])),
    ("input_height", INT32_MIN, SHAPE),
    ("stride_width", 0, SHAPE),
    ("kernel_height", 0, SHAPE),
    ("pad_top", -1, WINDOW),
    ("pad_top", 3, WINDOW),  # the first window would lie above the image
    ("pad_left", 2, WINDOW),
    ("pad_left", INT32_MAX, WINDOW),
    ("output_height", 4, WINDOW),  # the last one would begin below it
    ("output_width", 3, WINDOW),
    ("output_width", INT32_MAX, WINDOW),
    ("stride_height", INT32_MAX, WINDOW),
    ("input_height", INT32_MAX, LARGE),
    ("input_width", 2**28, LARGE),
    ("kernel_height", INT32_MAX, LARGE),
]
_ZERO_POINT_CASES = [
    *(("input_zero_point", value, ZERO_POINT) for value in (-1, 4, INT32_MIN, INT32_MAX)),
    *(("output_zero_point", value, ZERO_POINT) for value in (-1, 16, INT32_MIN, INT32_MAX)),
]
_SHIFT_CASES = [("left_shift", value, RESCALE) for value in (-1, 32, INT32_MIN, INT32_MAX)]
_COUNT_CASES = [("multiplier_count", value, RESCALE) for value in (-1, 0, 2, 7, INT32_MAX)]

MUST_FAIL = {
    "conv2d_a2w8o4_pc": [
        *_WINDOW_CASES,
        *_ZERO_POINT_CASES,
        *_SHIFT_CASES,
        *_COUNT_CASES,
        ("output_channels", INT32_MAX, LARGE),
        ("input_channels", 2**26, LARGE),
        ("kernel_width", 2**28, LARGE),
    ],
    "depthwise_conv2d_a2w8o4_pc": [
        *_WINDOW_CASES,
        *_ZERO_POINT_CASES,
        *_SHIFT_CASES,
        *_COUNT_CASES,
        ("output_channels", 7, SHAPE),  # not a multiple of three
        ("output_channels", 1, SHAPE),
    ],
    "fully_connected_a2w2o4_pl": [
        *(("input_features", value, SHAPE) for value in (0, -1, INT32_MIN)),
        *(("output_features", value, SHAPE) for value in (0, -1, INT32_MIN)),
        ("input_features", INT32_MAX, LARGE),
        ("input_features", 2**31 // 9 + 1, LARGE),  # products of 3 * 3
        ("output_features", INT32_MAX, LARGE),
        ("output_zero_point", 16, ZERO_POINT),
        *_SHIFT_CASES,
        ("multiplier_count", 0, RESCALE),
        ("multiplier_count", 4, RESCALE),
    ],
    "add_a2b8o4": [
        *(("elements", value, SHAPE) for value in (0, -1, INT32_MIN)),
        ("elements", INT32_MAX, LARGE),
        *(("shift", value, RESCALE) for value in (-1, 0, 32, INT32_MAX)),
        *(("output_zero_point", value, ZERO_POINT) for value in (-1, 16)),
        ("multiplier_a", INT32_MAX, LARGE),
        ("multiplier_a", INT32_MIN, LARGE),
        ("multiplier_b", INT32_MAX // 255 + 1, LARGE),
        ("multiplier_b", INT32_MIN, LARGE),
        ("offset", INT32_MAX, LARGE),
        ("offset", INT32_MIN, LARGE),
    ],
    "multiply_a2b8o4": [
        *(("elements", value, SHAPE) for value in (0, -1, 14, INT32_MIN)),
        *(("second_elements", value, SHAPE) for value in (0, -1, 4, 16, INT32_MIN)),
        ("elements", INT32_MAX, LARGE),
        ("second_elements", INT32_MAX, LARGE),
        *(("zero_point_a", value, ZERO_POINT) for value in (-1, 4, INT32_MAX)),
        *(("zero_point_b", value, ZERO_POINT) for value in (-1, 256, INT32_MIN)),
        *(("output_zero_point", value, ZERO_POINT) for value in (-1, 16)),
        *(("multiplier", value, RESCALE) for value in (0, -1, INT32_MIN)),
        *_SHIFT_CASES,
        ("left_shift", 22, LARGE),  # 3 * 255 << 22
    ],
    "lookup_a2o4": [
        *(("elements", value, SHAPE) for value in (0, -1, INT32_MIN)),
        ("elements", INT32_MAX, LARGE),
        *(("output_zero_point", value, ZERO_POINT) for value in (-1, 16)),
    ],
    "requantize_a2o4": [
        *(("elements", value, SHAPE) for value in (0, -1)),
        ("elements", INT32_MAX, LARGE),
        *_ZERO_POINT_CASES,
        *_SHIFT_CASES,
        ("left_shift", 31, LARGE),  # -3 << 31
    ],
    "average_pool_a2o4": [
        *_WINDOW_CASES[:-1],  # only the part of the kernel in the image counts
        *_ZERO_POINT_CASES,
        *_SHIFT_CASES,
        ("left_shift", 27, LARGE),  # 6 * -3 << 27
        ("output_channels", 6, SHAPE),
        *(("multiplier", value, RESCALE) for value in (0, -1, INT32_MIN)),
    ],
    "max_pool_a2": [*_WINDOW_CASES[:-1], ("output_channels", 6, SHAPE)],
    "pad_a2": [
        *((name, 0, SHAPE) for name in ("input_height", "input_width", "channels")),
        *((f"pad_{side}", -1, SHAPE) for side in ("top", "bottom", "left", "right")),
        *((f"pad_{side}", INT32_MAX, LARGE) for side in ("top", "bottom", "left", "right")),
        ("pad_top", 2**28, LARGE),
        ("channels", INT32_MAX, LARGE),
        ("zero_point", -1, ZERO_POINT),
        ("zero_point", 4, ZERO_POINT),
    ],
    "softmax_a8o8": [
        *((name, 0, SHAPE) for name in ("rows", "classes", "table_size")),
        ("table_size", 257, SHAPE),
        ("table_size", -1, SHAPE),
        ("classes", 32_768, LARGE),
        ("classes", INT32_MAX, LARGE),
        ("rows", INT32_MAX, LARGE),
    ],
}


@pytest.mark.parametrize(
    ("variant", "field", "value", "message"),
    [(variant, *case) for variant, cases in MUST_FAIL.items() for case in cases],
)
def test_must_fail(variant, field, value, message):
    with pytest.raises(TfmixError, match=f"^node: {variant} refuses its parameters: .*{message}"):
        prepare(call(variant, params(variant, **{field: value})))


def test_sums_of_products_fit_int32():
    most = {"input_features": 33_025, "output_features": 1}
    base = {**SOUND["fully_connected_a2w2o4_pl"][0], **most}
    variant = "fully_connected_a8w8o4_pl"
    assert prepare(call(variant, bytes(abi.FullyConnectedParams(**base)))).inputs == (33_025,)
    base["input_features"] += 1
    with pytest.raises(TfmixError, match=LARGE):
        prepare(call(variant, bytes(abi.FullyConnectedParams(**base))))


# -- concatenate --------------------------------------------------------------------------------

_HEAD = {"pixels": 5, "output_channels": 10, "output_zero_point": 15, "input_count": 2}
_FIRST = {"channels": 3, "bits": 2, "zero_point": 3, "multiplier": 2**20, "left_shift": 3}
_SECOND = {"channels": 7, "bits": 8, "zero_point": 255, "multiplier": 2**20, "left_shift": 0}


def concatenate(head: dict[str, int], *inputs: dict[str, int]) -> BufferSizes:
    data = bytes(abi.ConcatenateParams(**head)) + b"".join(
        bytes(abi.ConcatenateInput(**fields)) for fields in inputs
    )
    return prepare(call("concatenate_o4", data))


def test_concatenate_sizes():
    assert concatenate(_HEAD, _FIRST, _SECOND) == BufferSizes((4, 35), 0, 25, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pixels", 0, SHAPE),
        ("pixels", INT32_MAX, LARGE),
        ("output_channels", 9, SHAPE),
        ("output_channels", 11, SHAPE),
        ("output_channels", INT32_MAX, LARGE),
        ("output_zero_point", 16, ZERO_POINT),
        ("output_zero_point", -1, ZERO_POINT),
    ],
)
def test_concatenate_head_must_fail(field, value, message):
    with pytest.raises(TfmixError, match=message):
        concatenate({**_HEAD, field: value}, _FIRST, _SECOND)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("channels", 0, SHAPE),
        ("channels", -1, SHAPE),
        ("channels", 4, SHAPE),
        ("channels", INT32_MAX, SHAPE),
        ("bits", 3, "bit-widths"),
        ("bits", 0, "bit-widths"),
        ("bits", 16, "bit-widths"),
        ("zero_point", 4, ZERO_POINT),
        ("zero_point", -1, ZERO_POINT),
        ("left_shift", 32, RESCALE),
        ("left_shift", -1, RESCALE),
        ("left_shift", 31, LARGE),
    ],
)
def test_concatenate_input_must_fail(field, value, message):
    with pytest.raises(TfmixError, match=message):
        concatenate(_HEAD, {**_FIRST, field: value}, _SECOND)


@pytest.mark.parametrize("count", [0, -1, INT32_MIN])
def test_concatenate_needs_inputs(count):
    with pytest.raises(TfmixError):
        concatenate({**_HEAD, "input_count": count})


def test_params_of_another_length_are_refused():
    variant = "max_pool_a2"
    data = params(variant)
    with pytest.raises(FormatError, match="bytes"):
        prepare(call(variant, data[:-1]))
    with pytest.raises(TfmixError, match="node: parameters of"):
        prepare(call(variant, data + bytes(ctypes.sizeof(ctypes.c_int32))))
    with pytest.raises(FormatError, match="no kernel variant"):
        prepare(KernelCall("node", "max_pool_a3", Kernel.MAX_POOL, data, b"", ("a",), "y"))
