"""IntegerNode -> KernelCall -> IntegerNode, variant names, and the parameter structs' bytes."""

from __future__ import annotations

import dataclasses

import pytest
from golden_cases import Case, cases
from integer_models import model_of, random_model

from tfmix.errors import FormatError
from tfmix.integer import abi
from tfmix.integer.lower import KernelCall, lift, lower, output_quant, params_size, plane_of
from tfmix.integer.model import IntegerNetwork, IntegerNode, Kernel, canonical_window
from tfmix.ir.graph import Window, same_padding


def _node(kernel: Kernel) -> tuple[IntegerNode, IntegerNetwork]:
    model = model_of(kernel)
    return next(node for node in model.nodes if node.kernel is kernel), model


def _call(kernel: Kernel) -> tuple[KernelCall, tuple[int, int] | None]:
    node, model = _node(kernel)
    return lower(node, model.tensors), plane_of(node)


# -- variants -----------------------------------------------------------------------------------


def test_every_variant_parses_back():
    for name in abi.all_variants():
        v = abi.parse_variant(name)
        assert name == abi.variant_name(
            v.kernel,
            input_bits=(v.a, v.b),
            output_bits=v.output_bits,
            weight_bits=v.weight_bits,
            per_channel=v.per_channel,
        )


@pytest.mark.parametrize(
    "name", ["", "conv2d", "conv2d_a8w4o2", "conv2d_a8w3o2_pc", "softmax_a4o8", "add_a8o8", "relu"]
)
def test_unknown_variants(name):
    with pytest.raises(FormatError, match=f"there is no kernel variant '{name}'"):
        abi.parse_variant(name)


# -- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_lift_inverts_lower(seed):
    model = random_model(seed, nodes=8)
    for node in model.nodes:
        call = lower(node, model.tensors)
        assert lift(call, plane_of(node)) == node
        output = model.tensors[node.output].quant
        inputs = [model.tensors[name].quant for name in node.inputs]
        assert output_quant(call, output.scale, inputs) == output


@pytest.mark.parametrize("kernel", Kernel)
def test_zero_constants_have_the_right_size(kernel):
    node, model = _node(kernel)
    call = lower(node, model.tensors)
    zeros = lower(node, model.tensors, zero_constants=True)
    assert zeros == dataclasses.replace(call, constants=bytes(len(call.constants)))


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("kernel", range(1, 5))
@pytest.mark.parametrize("stride", range(1, 5))
def test_same_and_valid_windows_are_canonical(size, kernel, stride):
    same = same_padding(size, kernel, stride)
    window = Window((kernel, 1), (stride, 1), (*same, 0, 0))
    assert canonical_window(window, size, 1) == window
    if kernel <= size:
        valid = Window((1, kernel), (1, stride))
        assert canonical_window(valid, 1, size) == valid


def test_canonical_window_drops_padding_that_no_window_reaches():
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    canonical = canonical_window(window, 224, 223)
    assert canonical.padding == (1, 0, 1, 1)
    assert canonical.output_size(224, 223) == window.output_size(224, 223)


# -- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("params"), ids=str)
def test_golden_params(case: Case):
    kernel, values = Kernel(case.words[1]), [int(word) for word in case.words[2:]]
    struct = abi.PARAMS[kernel]
    count = len(struct._fields_)
    data = bytes(struct(*values[:count]))
    item = len(abi.ConcatenateInput._fields_)
    for start in range(count, len(values), item):
        data += bytes(abi.ConcatenateInput(*values[start : start + item]))
    assert data == case.data
    assert params_size(kernel, data + b"more") == len(data)
    assert struct.from_buffer_copy(data).values() == dict(
        zip((name for name, *_ in struct._fields_), values, strict=False)
    )


def test_golden_params_cover_every_kernel():
    assert {Kernel(case.words[1]) for case in cases("params")} == set(Kernel)


# -- bad calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", Kernel)
@pytest.mark.parametrize("change", [slice(None, -1), slice(0, 0), None])
def test_params_of_the_wrong_size(kernel, change):
    call, plane = _call(kernel)
    params = call.params + b"\0" if change is None else call.params[change]
    with pytest.raises(FormatError, match=rf"{kernel.value} parameters of {len(params)} bytes, "):
        lift(dataclasses.replace(call, params=params), plane)


@pytest.mark.parametrize("kernel", Kernel)
@pytest.mark.parametrize("value", [0, -1, -(1 << 31)])
def test_sizes_must_be_positive(kernel, value):
    call, plane = _call(kernel)
    first = abi.PARAMS[kernel]._fields_[0][0]
    params = value.to_bytes(4, "little", signed=True) + call.params[4:]
    with pytest.raises(FormatError, match=f"{kernel.value}: {first} is {value}, at least 1"):
        lift(dataclasses.replace(call, params=params), plane)


@pytest.mark.parametrize("kernel", [k for k in Kernel if _call(k)[0].constants])
def test_constants_of_the_wrong_size(kernel):
    call, plane = _call(kernel)
    with pytest.raises(FormatError, match=f"of {len(call.constants) - 1} bytes, "):
        lift(dataclasses.replace(call, constants=call.constants[1:]), plane)


def test_huge_sizes_are_refused_without_allocating():
    call, plane = _call(Kernel.CONV2D)
    params = abi.ConvParams.from_buffer_copy(call.params)
    params.input_channels = params.output_channels = (1 << 31) - 1
    params.kernel_height = params.kernel_width = (1 << 31) - 1
    with pytest.raises(FormatError, match="constants block of"):
        lift(dataclasses.replace(call, params=bytes(params)), plane)


@pytest.mark.parametrize(
    "kernel",
    [Kernel.ADD, Kernel.MULTIPLY, Kernel.LOOKUP, Kernel.REQUANTIZE, Kernel.FULLY_CONNECTED],
)
def test_elements_must_fill_the_plane(kernel):
    call, _ = _call(kernel)
    with pytest.raises(FormatError, match="do not split into 1009 equal parts"):
        lift(call, (1009, 1))


def test_a_factor_is_for_each_channel_or_each_element():
    call, (rows, columns) = _call(Kernel.MULTIPLY)
    params = abi.MultiplyParams.from_buffer_copy(call.params)
    channels = params.elements // (rows * columns)
    for second, shape in (
        (channels, (1, 1, channels)),
        (params.elements, (rows, columns, channels)),
    ):
        params.second_elements = second
        node = lift(dataclasses.replace(call, params=bytes(params)), (rows, columns))
        assert node.input_shapes == ((rows, columns, channels), shape)
    params.second_elements = params.elements + 1
    with pytest.raises(FormatError, match=f"second_elements is {params.second_elements}, "):
        lift(dataclasses.replace(call, params=bytes(params)), (rows, columns))


@pytest.mark.parametrize("kernel", Kernel)
def test_plane_is_given_exactly_where_it_is_needed(kernel):
    call, plane = _call(kernel)
    with pytest.raises(FormatError, match="rows and columns"):
        lift(call, None if plane else (1, 1))
