"""The C kernels read the golden bytes of the file format as Python writes them."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from golden_cases import Case, cases

from tfmix.integer import abi
from tfmix.integer.packing import pack
from tfmix.integer.runtime import load_library
from tfmix.ir.quant import max_level

#: Multiplier and left shift with which requantize is the identity.
ONE, ONE_SHIFT = 1 << 30, 2


def call(variant: str, *arguments: object) -> None:
    function = getattr(load_library(), f"tfmix_{variant}")
    function.restype = None
    function(*(a.ctypes.data_as(ctypes.c_void_p) if hasattr(a, "ctypes") else a for a in arguments))


@pytest.mark.parametrize("case", cases("pack"), ids=str)
def test_packed_values(case: Case):
    bits, values = int(case.words[1]), case.ints("values")
    params = abi.RequantizeParams(elements=len(values), multiplier=ONE, left_shift=ONE_SHIFT)
    output = np.zeros(len(values), np.uint8)
    call(f"requantize_a{bits}o8", bytes(params), np.frombuffer(case.data, np.uint8), output)
    np.testing.assert_array_equal(output, values)


def run_layer(kernel: str, variant: str, block: np.ndarray, x: np.ndarray, oc: int, zero: int):
    """Outputs of a layer whose window is all of x, [depth] or [depth, oc], for one image."""
    shared = {"output_zero_point": zero, "left_shift": ONE_SHIFT}
    if kernel == "fully_connected":
        params: object = abi.FullyConnectedParams(
            input_features=len(x), output_features=oc, multiplier_count=oc, **shared
        )
    else:
        params = abi.ConvParams(
            input_height=len(x), input_width=1, input_channels=oc,
            output_height=1, output_width=1, output_channels=oc,
            kernel_height=len(x), kernel_width=1, stride_height=1, stride_width=1,
            multiplier_count=oc, **shared,
        )  # fmt: skip
    bits = int(variant[variant.index("_a") + 2])
    scratch, output = np.zeros(1 << 16, np.int32), np.zeros(oc, np.uint8)
    call(variant, bytes(params), pack(x, bits), block, output, scratch)
    return output.astype(int)


@pytest.mark.parametrize("case", cases("constants"), ids=str)
def test_weights_of_a_layer(case: Case):
    """Inputs that are one at a single place show each weight less its zero point."""
    kernel, input_bits, bits = case.words[1], case.ints("input")[0], case.ints("bits")[0]
    bias, multiplier = case.ints("bias"), case.ints("multiplier")
    weights, zero_point = np.array(case.ints("weights")), np.array(case.ints("zero_point"))
    oc = len(bias)
    depth = len(weights) // oc
    depthwise = kernel == "depthwise_conv2d"
    expected = weights.reshape(depth, oc) if depthwise else weights.reshape(oc, depth).T
    expected = expected - zero_point

    # The same block with no bias and a multiplier of one for each channel.
    head = 4 * (oc + len(multiplier))
    block = np.concatenate(
        [
            np.zeros(oc, "<i4").view(np.uint8),
            np.full(oc, ONE, "<i4").view(np.uint8),
            np.frombuffer(case.data, np.uint8)[head:],
        ]
    )
    flavour = "pl" if len(zero_point) == 1 else "pc"
    variant = f"{kernel}_a{input_bits}w{bits}o8_{flavour}"
    for k in range(depth):
        x = np.zeros((depth, oc) if depthwise else depth, np.uint8)
        x[k] = 1
        # Two zero points, because an output cannot be negative.
        high = run_layer(kernel, variant, block, x, oc, max_level(8)) - max_level(8)
        low = run_layer(kernel, variant, block, x, oc, 0)
        np.testing.assert_array_equal(high + low, expected[k])
