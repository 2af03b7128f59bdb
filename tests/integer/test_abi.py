"""The C declarations and their Python twins are the same."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tfmix.integer import abi, runtime
from tfmix.integer.model import Kernel
from tfmix.integer.runtime import load_library
from tfmix.integer.stream import KIND_NAMES, StreamLayer

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


#: What Python hands to the library, and what is in files.
C_STRUCTS = {
    "tfmix_variant": runtime._Variant,
    "tfmix_sizes": runtime._Sizes,
    "tfmix_stream_layer": StreamLayer,
    "tfmix_stream_kernel": runtime._StreamKernel,
    "tfmix_stream": runtime._Stream,
    "tfmix_stream_sizes": runtime._StreamSizes,
}
KERNELS = Path(__file__).resolve().parents[2] / "kernels"


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
        *C_STRUCTS,
    }


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(name):
    assert c_layout()[name] == python_layout(STRUCTS[name])


@pytest.mark.parametrize("name", C_STRUCTS)
def test_struct_of_the_c_api(name):
    assert c_layout()[name] == python_layout(C_STRUCTS[name])


@pytest.mark.parametrize(("kind", "name"), KIND_NAMES.items())
def test_kinds_of_layers(kind, name):
    header = (KERNELS / "include" / "tfmix" / "stream.h").read_text()
    assert re.search(rf"^  {name} = {kind},?$", header, re.M)


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
    expected |= {f"tfmix_stream_{name}" for name in ("prepare", "run", "begin", "feed")}
    expected |= {name.replace("pool", "pool_rows") for name in expected if "average_pool_a" in name}
    expected |= {"tfmix_host_stream_kernels"}
    expected |= {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}
    assert set(symbols) == expected
