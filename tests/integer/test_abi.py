"""The C declarations and their Python twins are the same."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest

from tfmix.integer import abi, runtime
from tfmix.integer.model import Kernel
from tfmix.integer.runtime import load_library

STRUCTS = {
    "tfmix_conv_params": abi.ConvParams,
    "tfmix_fully_connected_params": abi.FullyConnectedParams,
    "tfmix_add_params": abi.AddParams,
    "tfmix_multiply_params": abi.MultiplyParams,
    "tfmix_concatenate_params": abi.ConcatenateParams,
    "tfmix_concatenate_input": abi.ConcatenateInput,
    "tfmix_requantize_params": abi.RequantizeParams,
    "tfmix_lookup_params": abi.LookupParams,
    "tfmix_average_pool_params": abi.AveragePoolParams,
    "tfmix_max_pool_params": abi.MaxPoolParams,
    "tfmix_pad_params": abi.PadParams,
    "tfmix_softmax_params": abi.SoftmaxParams,
}


class _Field(ctypes.Structure):
    """tfmix_host_field of kernels/host/introspection.cc."""

    _fields_ = [
        ("struct_name", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("offset", ctypes.c_int32),
    ]


def c_layout() -> dict[str, list[tuple[str, int]]]:
    """Fields and offsets of each C struct; the last pair is its size, under an empty name."""
    library = load_library()
    library.tfmix_host_fields.restype = ctypes.POINTER(_Field)
    count = ctypes.c_int32()
    fields = library.tfmix_host_fields(ctypes.byref(count))
    layout: dict[str, list[tuple[str, int]]] = {}
    for field in fields[: count.value]:
        pair = (field.name.decode(), field.offset)
        layout.setdefault(field.struct_name.decode(), []).append(pair)
    return layout


def python_layout(struct: type) -> list[tuple[str, int]]:
    fields = [(name, getattr(struct, name).offset) for name, _ in struct._fields_]
    return [*fields, ("", ctypes.sizeof(struct))]


def test_every_struct_is_compared():
    assert set(STRUCTS.values()) == {*abi.PARAMS.values(), abi.ConcatenateInput}
    assert c_layout().keys() == {
        *STRUCTS,
        "tfmix_variant",
        "tfmix_sizes",
    }


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(name):
    assert c_layout()[name] == python_layout(STRUCTS[name])


@pytest.mark.parametrize(
    ("name", "struct"), [("tfmix_variant", runtime._Variant), ("tfmix_sizes", runtime._Sizes)]
)
def test_struct_of_prepare(name, struct):
    assert c_layout()[name] == python_layout(struct)


def test_the_library_has_exactly_the_variants():
    library = load_library()
    library.tfmix_host_variants.restype = ctypes.c_char_p
    names = library.tfmix_host_variants().decode().split()
    assert len(names) == 253
    assert sorted(names) == sorted(abi.all_variants())
    assert all(hasattr(library, f"tfmix_{name}") for name in names)


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_the_library_exports_nothing_else():
    library = load_library()
    symbols = subprocess.run(
        ["nm", "--dynamic", "--defined-only", library._name],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[2::3]
    expected = {f"tfmix_{name}" for name in abi.all_variants()}
    expected |= {f"tfmix_{kernel.value}_prepare" for kernel in Kernel}
    expected |= {"tfmix_status_message", "tfmix_host_fields", "tfmix_host_variants"}
    expected |= {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}
    assert set(symbols) == expected
