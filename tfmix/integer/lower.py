"""IntegerNode <-> KernelCall: the variant's name, its parameter struct and its constants as bytes.

What runs on the host (runtime), what is written to the file (export) and what is read back (load)
are all this one value.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfmix.errors import FormatError
from tfmix.integer import abi
from tfmix.integer.model import (
    AddRescale,
    IntegerNode,
    IntegerTensor,
    IntegerWeights,
    Kernel,
    Rescale,
    used_padding,
)
from tfmix.integer.packing import constants_block, constants_size, parse_constants_block
from tfmix.integer.weight_order import weight_order
from tfmix.ir.graph import Window
from tfmix.ir.quant import QuantParams, max_level


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


def lower(
    node: IntegerNode, tensors: Mapping[str, IntegerTensor], *, zero_constants: bool = False
) -> KernelCall:
    """The call that runs `node`. zero_constants: leave the constants zero, which is much faster
    where only their size matters."""
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
    return KernelCall(
        node.name,
        variant,
        node.kernel,
        _params(node, quants, out),
        bytes(_constants_size(node, quants)) if zero_constants else _constants(node, quants),
        node.inputs,
        node.output,
    )


def _constants(node: IntegerNode, quants: Sequence[QuantParams]) -> bytes:
    w = node.weights
    if w is not None:
        return constants_block(w, weight_order(node.kernel, quants[0].bits, w.bits))
    if node.table is None:
        return b""
    return node.table.astype(node.table.dtype.newbyteorder("<")).tobytes()


def _constants_size(node: IntegerNode, quants: Sequence[QuantParams]) -> int:
    w = node.weights
    if w is not None:
        stored = weight_order(node.kernel, quants[0].bits, w.bits).stored(w.values.shape)
        return constants_size(stored, w.bits, len(w.bias), len(w.multiplier), len(w.zero_point))
    return 0 if node.table is None else node.table.nbytes


def _window_fields(node: IntegerNode) -> dict[str, int]:
    (ih, iw, ic), (oh, ow, oc) = node.input_shapes[0], node.output_shape
    window = node.window
    return {
        "input_height": ih,
        "input_width": iw,
        "input_channels": ic,
        "output_height": oh,
        "output_width": ow,
        "output_channels": oc,
        "kernel_height": window.kernel[0],
        "kernel_width": window.kernel[1],
        "stride_height": window.strides[0],
        "stride_width": window.strides[1],
        "pad_top": window.padding[0],
        "pad_left": window.padding[2],
    }


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
    elif kernel is Kernel.MULTIPLY:
        params = abi.MultiplyParams(
            elements=oh * ow * oc,
            second_elements=math.prod(node.input_shapes[1]),
            zero_point_a=zx,
            zero_point_b=quants[1].zero_point,
            output_zero_point=zy,
            multiplier=node.rescales[0].multiplier,
            left_shift=node.rescales[0].left_shift,
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
    elif kernel is Kernel.LOOKUP:
        params = abi.LookupParams(elements=oh * ow * oc, output_zero_point=zy)
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


# -- back ---------------------------------------------------------------------------------------

#: Kernels whose struct counts elements or pixels and does not say how they lie in the plane.
PLANELESS_KERNELS = frozenset(
    {
        Kernel.ADD,
        Kernel.CONCATENATE,
        Kernel.FULLY_CONNECTED,
        Kernel.LOOKUP,
        Kernel.MULTIPLY,
        Kernel.REQUANTIZE,
        Kernel.SOFTMAX,
    }
)

#: Fields that may be zero or negative; all others count something.
_SIGNED_FIELDS = frozenset(
    {"pad_top", "pad_bottom", "pad_left", "pad_right", "left_shift", "shift", "offset"}
    | {"input_zero_point", "output_zero_point", "zero_point", "zero_point_a", "zero_point_b"}
    | {"multiplier", "multiplier_a", "multiplier_b"}
)


def plane_of(node: IntegerNode) -> tuple[int, int] | None:
    """What `lift` has to be told: (rows, columns) of the first input, if the struct lacks it."""
    return node.input_shapes[0][:2] if node.kernel in PLANELESS_KERNELS else None


def lift(call: KernelCall, plane: tuple[int, int] | None = None) -> IntegerNode:
    """Inverse of `lower`, given `plane_of` the node.

    FormatError where the bytes cannot be a call of this variant. That the node fits its tensors
    and that its fields agree with each other is left to `check_model` and to lowering it again.
    """
    variant = abi.parse_variant(call.variant)
    fields, tail = _read_params(variant.kernel, call.params)
    if (plane is not None) != (variant.kernel in PLANELESS_KERNELS):
        raise FormatError(f"{call.variant} with{'out' if plane is None else ''} rows and columns")
    read = _LIFT[variant.kernel]
    return IntegerNode(
        call.node,
        variant.kernel,
        call.inputs,
        call.output,
        **read(_Lifted(call, variant, fields, tail, plane)),
    )


def output_quant(call: KernelCall, scale: float, inputs: Sequence[QuantParams]) -> QuantParams:
    """Quantization of the tensor that `call` writes, given its scale and that of its inputs.

    Zero point and bits are in the struct and the variant's name, or the input's (max_pool, pad).
    """
    variant = abi.parse_variant(call.variant)
    fields, _ = _read_params(variant.kernel, call.params)
    if variant.kernel is Kernel.SOFTMAX:
        zero_point = 0
    else:
        zero_point = fields.get("output_zero_point", inputs[0].zero_point)
    return QuantParams(scale, zero_point, variant.output_bits or inputs[0].bits)


@dataclass(frozen=True)
class _Lifted:
    call: KernelCall
    variant: abi.Variant
    fields: dict[str, int]
    tail: list[dict[str, int]]
    plane: tuple[int, int] | None


def params_size(kernel: Kernel, data: bytes) -> int:
    """Bytes of the parameter struct(s) that `data` begins with. FormatError if it is shorter."""
    head = abi.PARAMS[kernel]
    size = ctypes.sizeof(head)
    if len(data) >= size:
        items = head.from_buffer_copy(data).values().get("input_count", 0)
        size += ctypes.sizeof(abi.ConcatenateInput) * max(0, items)
    if len(data) < size:
        raise FormatError(f"{kernel.value} parameters of {len(data)} bytes, {size} expected")
    return size


def _read_params(kernel: Kernel, data: bytes) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Fields of the kernel's struct, and those of each ConcatenateInput."""
    size = params_size(kernel, data)
    if len(data) != size:
        raise FormatError(f"{kernel.value} parameters of {len(data)} bytes, {size} expected")
    fields = abi.PARAMS[kernel].from_buffer_copy(data).values()
    head_size, item_size = ctypes.sizeof(abi.PARAMS[kernel]), ctypes.sizeof(abi.ConcatenateInput)
    tail = [
        abi.ConcatenateInput.from_buffer_copy(data, start).values()
        for start in range(head_size, size, item_size)
    ]
    for name, value in (pair for part in (fields, *tail) for pair in part.items()):
        if value < 1 and name not in _SIGNED_FIELDS:
            raise FormatError(f"{kernel.value}: {name} is {value}, at least 1 expected")
    return fields, tail


def _split(count: int, by: int, what: str) -> int:
    if by < 1 or count % by:
        raise FormatError(f"{count} {what} do not split into {by} equal parts")
    return count // by


def _rescale(fields: dict[str, int]) -> Rescale:
    return Rescale(fields["multiplier"], fields["left_shift"])


def _lift_window(x: _Lifted) -> dict[str, Any]:
    f = x.fields
    kernel = (f["kernel_height"], f["kernel_width"])
    strides = (f["stride_height"], f["stride_width"])
    ih, iw, top, left = f["input_height"], f["input_width"], f["pad_top"], f["pad_left"]
    oh, ow = f["output_height"], f["output_width"]
    bottom = used_padding(ih, kernel[0], strides[0], top, oh)
    right = used_padding(iw, kernel[1], strides[1], left, ow)
    return {
        "input_shapes": ((ih, iw, f["input_channels"]),),
        "output_shape": (oh, ow, f["output_channels"]),
        "window": Window(kernel, strides, (top, bottom, left, right)),
    }


def _weights(x: _Lifted, shape: tuple[int, ...], channels: int) -> IntegerWeights:
    v = x.variant
    return parse_constants_block(
        x.call.constants,
        weight_order(v.kernel, v.a, v.weight_bits),
        shape=shape,
        bits=v.weight_bits,
        channels=channels,
        multipliers=x.fields["multiplier_count"],
        per_channel=v.per_channel,
        left_shift=x.fields["left_shift"],
    )


def _lift_conv2d(x: _Lifted) -> dict[str, Any]:
    geometry = _lift_window(x)
    ic, oc = geometry["input_shapes"][0][2], geometry["output_shape"][2]
    return geometry | {"weights": _weights(x, (oc, *geometry["window"].kernel, ic), oc)}


def _lift_depthwise(x: _Lifted) -> dict[str, Any]:
    geometry = _lift_window(x)
    oc = geometry["output_shape"][2]
    return geometry | {"weights": _weights(x, (*geometry["window"].kernel, oc), oc)}


def _lift_fully_connected(x: _Lifted) -> dict[str, Any]:
    features, oc = x.fields["input_features"], x.fields["output_features"]
    rows, columns = x.plane
    return {
        "input_shapes": ((rows, columns, _split(features, rows * columns, "input features")),),
        "output_shape": (1, 1, oc),
        "weights": _weights(x, (oc, features), oc),
    }


def _elementwise(x: _Lifted) -> dict[str, Any]:
    rows, columns = x.plane
    shape = (rows, columns, _split(x.fields["elements"], rows * columns, "elements"))
    return {"input_shapes": (shape,) * len(x.call.inputs), "output_shape": shape}


def _lift_add(x: _Lifted) -> dict[str, Any]:
    f = x.fields
    add = AddRescale((f["multiplier_a"], f["multiplier_b"]), f["offset"], f["shift"])
    return _elementwise(x) | {"add": add}


def _lift_multiply(x: _Lifted) -> dict[str, Any]:
    rows, columns, channels = shape = _elementwise(x)["output_shape"]
    seconds = {math.prod(s): s for s in ((1, 1, channels), shape)}
    second = seconds.get(x.fields["second_elements"])
    if second is None:
        raise FormatError(
            f"multiply: second_elements is {x.fields['second_elements']}, {channels} (channels) or "
            f"{rows * columns * channels} (elements) expected"
        )
    return {
        "input_shapes": (shape, second),
        "output_shape": shape,
        "rescales": (_rescale(x.fields),),
    }


def _lift_requantize(x: _Lifted) -> dict[str, Any]:
    return _elementwise(x) | {"rescales": (_rescale(x.fields),)}


def _lift_concatenate(x: _Lifted) -> dict[str, Any]:
    return {
        "input_shapes": tuple((*x.plane, item["channels"]) for item in x.tail),
        "output_shape": (*x.plane, x.fields["output_channels"]),
        "rescales": tuple(_rescale(item) for item in x.tail),
    }


def _lift_average_pool(x: _Lifted) -> dict[str, Any]:
    return _lift_window(x) | {"rescales": (_rescale(x.fields),)}


def _lift_pad(x: _Lifted) -> dict[str, Any]:
    f = x.fields
    top, bottom, left, right = (f[f"pad_{side}"] for side in ("top", "bottom", "left", "right"))
    rows, columns, channels = f["input_height"], f["input_width"], f["channels"]
    return {
        "input_shapes": ((rows, columns, channels),),
        "output_shape": (rows + top + bottom, columns + left + right, channels),
        "padding": (top, bottom, left, right),
    }


def _lift_lookup(x: _Lifted) -> dict[str, Any]:
    size = max_level(x.variant.a) + 1
    if len(x.call.constants) != size:
        raise FormatError(f"lookup table of {len(x.call.constants)} bytes, {size} expected")
    return _elementwise(x) | {"table": np.frombuffer(x.call.constants, np.uint8).copy()}


def _lift_softmax(x: _Lifted) -> dict[str, Any]:
    size = 2 * x.fields["table_size"]
    if len(x.call.constants) != size:
        raise FormatError(f"softmax table of {len(x.call.constants)} bytes, {size} expected")
    shape = (*x.plane, x.fields["classes"])
    return {
        "input_shapes": (shape,),
        "output_shape": shape,
        "table": np.frombuffer(x.call.constants, "<u2").astype(np.uint16),
    }


_LIFT: dict[Kernel, Callable[[_Lifted], dict[str, Any]]] = {
    Kernel.CONV2D: _lift_conv2d,
    Kernel.DEPTHWISE_CONV2D: _lift_depthwise,
    Kernel.FULLY_CONNECTED: _lift_fully_connected,
    Kernel.ADD: _lift_add,
    Kernel.MULTIPLY: _lift_multiply,
    Kernel.CONCATENATE: _lift_concatenate,
    Kernel.REQUANTIZE: _lift_requantize,
    Kernel.LOOKUP: _lift_lookup,
    Kernel.AVERAGE_POOL: _lift_average_pool,
    Kernel.MAX_POOL: _lift_window,
    Kernel.PAD: _lift_pad,
    Kernel.SOFTMAX: _lift_softmax,
}
