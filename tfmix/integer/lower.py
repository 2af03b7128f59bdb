"""IntegerNode <-> KernelCall: the variant's name, its parameter struct and its constants as bytes.

What runs on the host (runtime), what is written to the file (export) and what is read back (load)
are all this one value.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfmix.errors import FormatError
from tfmix.integer import abi
from tfmix.integer.model import (
    WEIGHTED_KERNELS,
    AddRescale,
    IntegerNode,
    IntegerTensor,
    Kernel,
    Rescale,
)
from tfmix.integer.packing import constants_block, parse_constants_block
from tfmix.ir.graph import Window


@dataclass(frozen=True)
class KernelCall:
    """One call of the C API.

    variant:   name without prefix, for instance "conv2d_a8w4o2_pc"
    params:    bytes of the kernel's parameter struct (tfmix.integer.abi)
    constants: weights and tables in flash, b"" where there are none
    inputs, output: names of the activation tensors
    """

    node: str
    variant: str
    kernel: Kernel
    params: bytes
    constants: bytes
    inputs: tuple[str, ...]
    output: str


def lower(node: IntegerNode, tensors: Mapping[str, IntegerTensor]) -> KernelCall:
    """The call that runs `node`."""
    quants = [tensors[name].quant for name in node.inputs]
    out = tensors[node.output].quant
    weights = node.weights
    variant = abi.variant_name(
        node.kernel,
        input_bits=tuple(q.bits for q in quants),
        output_bits=out.bits,
        weight_bits=weights.bits if weights else None,
        per_channel=weights.per_channel if weights else None,
    )
    constants = b""
    if weights is not None:
        constants = constants_block(weights)
    elif node.table is not None:
        constants = node.table.astype("<u2").tobytes()
    return KernelCall(
        node.name,
        variant,
        node.kernel,
        _params(node, quants, out),
        constants,
        node.inputs,
        node.output,
    )


def _window_fields(node: IntegerNode) -> dict[str, int]:
    (ih, iw, ic), (oh, ow, oc) = node.input_shapes[0], node.output_shape
    window = node.window
    return dict(
        input_height=ih,
        input_width=iw,
        input_channels=ic,
        output_height=oh,
        output_width=ow,
        output_channels=oc,
        kernel_height=window.kernel[0],
        kernel_width=window.kernel[1],
        stride_height=window.strides[0],
        stride_width=window.strides[1],
        pad_top=window.padding[0],
        pad_left=window.padding[2],
    )


def _params(node: IntegerNode, quants, out) -> bytes:
    kernel, w = node.kernel, node.weights
    (ih, iw, ic), (oh, ow, oc) = node.input_shapes[0], node.output_shape
    zx, zy = quants[0].zero_point, out.zero_point
    if kernel in (Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D):
        params = abi.ConvParams(
            **_window_fields(node),
            input_zero_point=zx,
            output_zero_point=zy,
            left_shift=w.left_shift,
            multiplier_count=len(w.multiplier),
        )
    elif kernel is Kernel.FULLY_CONNECTED:
        params = abi.FullyConnectedParams(
            input_features=ih * iw * ic,
            output_features=oc,
            output_zero_point=zy,
            left_shift=w.left_shift,
            multiplier_count=len(w.multiplier),
        )
    elif kernel is Kernel.ADD:
        params = abi.AddParams(
            elements=oh * ow * oc,
            multiplier_a=node.add.multipliers[0],
            multiplier_b=node.add.multipliers[1],
            offset=node.add.offset,
            shift=node.add.shift,
            output_zero_point=zy,
        )
    elif kernel is Kernel.CONCATENATE:
        head = abi.ConcatenateParams(
            pixels=oh * ow, output_channels=oc, output_zero_point=zy, input_count=len(node.inputs)
        )
        tail = [
            abi.ConcatenateInput(
                channels=shape[2],
                bits=q.bits,
                zero_point=q.zero_point,
                multiplier=r.multiplier,
                left_shift=r.left_shift,
            )
            for shape, q, r in zip(node.input_shapes, quants, node.rescales, strict=True)
        ]
        return bytes(head) + b"".join(map(bytes, tail))
    elif kernel is Kernel.REQUANTIZE:
        params = abi.RequantizeParams(
            elements=oh * ow * oc,
            input_zero_point=zx,
            output_zero_point=zy,
            multiplier=node.rescales[0].multiplier,
            left_shift=node.rescales[0].left_shift,
        )
    elif kernel is Kernel.AVERAGE_POOL:
        params = abi.AveragePoolParams(
            **_window_fields(node),
            input_zero_point=zx,
            output_zero_point=zy,
            multiplier=node.rescales[0].multiplier,
            left_shift=node.rescales[0].left_shift,
        )
    elif kernel is Kernel.MAX_POOL:
        params = abi.MaxPoolParams(**_window_fields(node))
    elif kernel is Kernel.PAD:
        top, bottom, left, right = node.padding
        params = abi.PadParams(
            input_height=ih,
            input_width=iw,
            channels=ic,
            pad_top=top,
            pad_bottom=bottom,
            pad_left=left,
            pad_right=right,
            zero_point=zx,
        )
    else:
        params = abi.SoftmaxParams(rows=oh * ow, classes=oc, table_size=len(node.table))
    return bytes(params)
