"""`CRuntime`: runs an `IntegerNetwork` with the C kernels, built for this machine.

The same sources run on the device; tfmix/integer/reference.py is the slow NumPy twin that defines
what they must compute. As on a device, every call is checked once by its kernel's prepare function,
when the runtime is made, and runs unchecked afterwards.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tfmix.errors import TfmixError
from tfmix.integer import abi
from tfmix.integer.lower import KernelCall, lower, params_size
from tfmix.integer.model import (
    BINARY_KERNELS,
    TABLE_KERNELS,
    WEIGHTED_KERNELS,
    IntegerNetwork,
    IntegerNode,
    IntegerTensor,
    Kernel,
)
from tfmix.integer.packing import pack, unpack
from tfmix.integer.stream import StreamCall, execution_order, lower_chain
from tfmix.ir.quant import packed_size

# Not resolved: in Bazel's runfiles the sources are links, and the library lies beside the links.
_LIBRARY = Path(__file__).absolute().parents[1] / "_kernels.so"

# -- the C API ----------------------------------------------------------------------------------


class _Variant(ctypes.Structure):
    """tfmix_variant of kernels/include/tfmix/kernels.h."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("input_bits", "second_input_bits", "weight_bits", "output_bits", "per_channel")
    ]


class _Sizes(ctypes.Structure):
    """tfmix_sizes of kernels/include/tfmix/kernels.h."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("input", "second_input", "constants", "output", "scratch")
    ]


class _StreamKernel(ctypes.Structure):
    """tfmix_stream_kernel of kernels/include/tfmix/stream.h."""

    _fields_ = [
        ("kernel", ctypes.c_int32),
        ("variant", _Variant),
        ("prepare", ctypes.c_void_p),
        ("run", ctypes.c_void_p),
    ]


class _Stream(ctypes.Structure):
    """tfmix_stream of kernels/include/tfmix/stream.h."""

    _fields_ = [
        ("layers", ctypes.c_char_p),
        ("layer_count", ctypes.c_int32),
        ("input_count", ctypes.c_int32),
        ("input_rows", ctypes.c_int32),
        ("kernels", ctypes.POINTER(_StreamKernel)),
        ("kernel_count", ctypes.c_int32),
    ]


class _StreamSizes(ctypes.Structure):
    """tfmix_stream_sizes of kernels/include/tfmix/stream.h."""

    _fields_ = [(name, ctypes.c_int32) for name in ("output", "scratch", "distance")]


def library_path() -> Path:
    """The kernels as a shared library. TfmixError if it has not been built."""
    if not _LIBRARY.exists():
        raise TfmixError(
            f"the kernels are not built: {_LIBRARY.name} is missing from {_LIBRARY.parent}; "
            "run `pip install .` (or `pip install -e .`) in the source tree, with a C++17 compiler"
        )
    return _LIBRARY


@cache
def load_library() -> ctypes.CDLL:
    """That library, loaded. TfmixError if it has not been built or does not load."""
    path = library_path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise TfmixError(f"the kernels do not load, run `pip install .` again: {error}") from error
    library.tfmix_status_message.restype = ctypes.c_char_p
    library.tfmix_host_stream_kernels.restype = ctypes.POINTER(_StreamKernel)
    return library


@dataclass(frozen=True)
class BufferSizes:
    """Exact sizes in bytes of what one kernel call reads and writes."""

    inputs: tuple[int, ...]
    constants: int
    output: int
    scratch: int


def prepare(call: KernelCall) -> BufferSizes:
    """Has the kernel check the parameters of `call`; TfmixError naming the node if it refuses."""
    library = load_library()
    bits = abi.parse_variant(call.variant)
    variant = _Variant(
        *(value or 0 for value in (bits.a, bits.b, bits.weight_bits, bits.output_bits)),
        per_channel=bool(bits.per_channel),
    )
    expected = params_size(call.kernel, call.params)
    if len(call.params) != expected:
        raise TfmixError(
            f"{call.node}: parameters of {len(call.params)} bytes, {expected} expected"
        )
    sizes = _Sizes()
    function = getattr(library, f"tfmix_{call.kernel.value}_prepare")
    if call.kernel is Kernel.CONCATENATE:
        head, item = ctypes.sizeof(abi.ConcatenateParams), ctypes.sizeof(abi.ConcatenateInput)
        count = (len(call.params) - head) // item
        input_sizes = (ctypes.c_int32 * count)()
        status = function(
            call.params,
            call.params[head:],
            count,
            ctypes.byref(variant),
            input_sizes,
            ctypes.byref(sizes),
        )
        inputs = tuple(input_sizes)
    else:
        status = function(call.params, ctypes.byref(variant), ctypes.byref(sizes))
        inputs = (sizes.input, sizes.second_input)[: 1 + (call.kernel in BINARY_KERNELS)]
    if status != 0:
        message = library.tfmix_status_message(status).decode()
        raise TfmixError(f"{call.node}: {call.variant} refuses its parameters: {message}")
    return BufferSizes(inputs, sizes.constants, sizes.output, sizes.scratch)


def scratch_bytes(node: IntegerNode, tensors: Mapping[str, IntegerTensor]) -> int:
    """Bytes of scratch memory that the kernel of `node` needs while it runs."""
    return prepare(lower(node, tensors, zero_constants=True)).scratch


def bind(
    call: KernelCall,
    sizes: BufferSizes,
    inputs: Sequence[np.ndarray],
    output: np.ndarray,
    scratch: np.ndarray,
) -> Callable[[], None]:
    """The call as a function of nothing: kernel, buffers and addresses are settled here, once.

    sizes: what `prepare(call)` returned. inputs, output: uint8, packed; scratch: at least
    sizes.scratch bytes, aligned to 4. TfmixError naming the node if a buffer has another size.
    """
    _check_sizes(call, sizes, inputs, output, scratch)
    # Pointers made by data_as keep their arrays alive.
    pointers = [_pointer(array) for array in inputs]
    params = ctypes.create_string_buffer(call.params, len(call.params))
    constants = ctypes.create_string_buffer(call.constants, len(call.constants) or 1)
    arguments: tuple[Any, ...]
    if call.kernel in WEIGHTED_KERNELS:
        arguments = (params, *pointers, constants, _pointer(output), _pointer(scratch))
    elif call.kernel in TABLE_KERNELS:
        arguments = (params, *pointers, constants, _pointer(output))
    elif call.kernel is Kernel.CONCATENATE:
        descriptions = ctypes.byref(params, ctypes.sizeof(abi.ConcatenateParams))
        addresses = (ctypes.c_void_p * len(pointers))(*(pointer.value for pointer in pointers))
        addresses.keep_alive = pointers
        arguments = (params, descriptions, addresses, _pointer(output))
    else:
        arguments = (params, *pointers, _pointer(output))
    function = getattr(load_library(), f"tfmix_{call.variant}")
    function.restype = None
    return partial(function, *arguments)


def _check_sizes(
    call: KernelCall,
    sizes: BufferSizes,
    inputs: Sequence[np.ndarray],
    output: np.ndarray,
    scratch: np.ndarray,
) -> None:
    if not len(call.inputs) == len(inputs) == len(sizes.inputs):
        raise TfmixError(
            f"{call.node}: {len(call.inputs)} inputs, {call.variant} expects {len(sizes.inputs)}"
        )
    checks = [
        *zip((f"tensor {name!r}" for name in call.inputs), inputs, sizes.inputs, strict=True),
        (f"tensor {call.output!r}", output, sizes.output),
        ("constants", memoryview(call.constants), sizes.constants),
    ]
    for what, buffer, expected in checks:
        if buffer.nbytes != expected:
            raise TfmixError(
                f"{call.node}: {what} of {buffer.nbytes} bytes, {call.variant} expects {expected}"
            )
    if scratch.nbytes < sizes.scratch:
        raise TfmixError(
            f"{call.node}: scratch of {scratch.nbytes} bytes, {call.variant} needs {sizes.scratch}"
        )


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


# -- chains -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamSizes:
    """Exact sizes in bytes of what a chain reads and writes.

    operands: its inputs, then the constants of its layers; distance: see `StreamCall`
    """

    operands: tuple[int, ...]
    output: int
    scratch: int
    distance: int


def stream_struct(call: StreamCall) -> _Stream:
    """The chain as the C API has it, with all kernels that there are."""
    count = ctypes.c_int32()
    kernels = load_library().tfmix_host_stream_kernels(ctypes.byref(count))
    return _Stream(
        call.records, len(call.layers), len(call.inputs), call.input_rows, kernels, count
    )


def prepare_stream(call: StreamCall) -> StreamSizes:
    """Has the kernels check the chain; TfmixError naming it if they refuse."""
    library = load_library()
    count = len(call.inputs) + len(call.constants)
    operands, sizes = (ctypes.c_int32 * count)(), _StreamSizes()
    status = library.tfmix_stream_prepare(
        ctypes.byref(stream_struct(call)), operands, count, ctypes.byref(sizes)
    )
    if status != 0:
        message = library.tfmix_status_message(status).decode()
        raise TfmixError(f"chain {call.name}: the kernels refuse it: {message}")
    return StreamSizes(tuple(operands), sizes.output, sizes.scratch, sizes.distance)


def bind_stream(
    call: StreamCall, inputs: Sequence[np.ndarray], output: np.ndarray, scratch: np.ndarray
) -> Callable[[], None]:
    """The chain as a function of nothing, as `bind`; whole inputs only.

    The output may lie over the first input as `StreamSizes.distance` says. TfmixError naming the
    chain if the kernels refuse it or a buffer has another size.
    """
    sizes = prepare_stream(call)
    constants = [ctypes.create_string_buffer(c.constants, len(c.constants)) for c in call.constants]
    names = [*call.inputs, *(f"constants of {c.node}" for c in call.constants), call.output]
    found = [*(x.nbytes for x in inputs), *map(ctypes.sizeof, constants), output.nbytes]
    for name, size, expected in zip(names, found, (*sizes.operands, sizes.output), strict=True):
        if size != expected:
            raise TfmixError(f"chain {call.name}: {name} of {size} bytes, {expected} expected")
    if scratch.nbytes < sizes.scratch:
        raise TfmixError(
            f"chain {call.name}: scratch of {scratch.nbytes} bytes, {sizes.scratch} needed"
        )
    pointers = [*map(_pointer, inputs), *(ctypes.cast(c, ctypes.c_void_p) for c in constants)]
    operands = (ctypes.c_void_p * len(pointers))(*(pointer.value for pointer in pointers))
    operands.keep_alive = (pointers, constants)
    function = load_library().tfmix_stream_run
    function.restype = None
    stream = stream_struct(call)
    return partial(function, ctypes.byref(stream), operands, _pointer(output), _pointer(scratch))


# -- the model ----------------------------------------------------------------------------------


class CRuntime:
    """Runs `model`, one image at a time, on one core.

    All buffers are allocated here and reused by every call: one runtime must not be used by two
    threads at once. TfmixError if a kernel refuses its parameters or they do not fit the tensors.
    """

    def __init__(self, model: IntegerNetwork):
        self.model = model
        self._buffers = {
            name: np.zeros(packed_size(_elements(tensor), tensor.quant.bits), np.uint8)
            for name, tensor in model.tensors.items()
        }
        self._steps = [
            self._bind_chain(step) if isinstance(step, tuple) else self._bind(step)
            for step in execution_order(model)
        ]

    @cached_property
    def _layers(self) -> Sequence[Callable[[], None]]:
        """The steps without chains."""
        if not self.model.chains:
            return self._steps
        return [self._bind(node) for node in self.model.nodes]

    def _bind(self, node: IntegerNode) -> Callable[[], None]:
        call = lower(node, self.model.tensors)
        sizes = prepare(call)
        inputs = [self._buffers[name] for name in call.inputs]
        return bind(call, sizes, inputs, self._buffers[call.output], _scratch(sizes.scratch))

    def _bind_chain(self, chain: tuple[str, ...]) -> Callable[[], None]:
        call = lower_chain(self.model, chain)
        inputs = [self._buffers[name] for name in call.inputs]
        return bind_stream(call, inputs, self._buffers[call.output], _scratch(call.scratch))

    def run(self, q: np.ndarray) -> np.ndarray:
        """uint8 [n, *input_shape] -> uint8 [n, *output_shape]."""
        outputs = self._run(q, (self.model.output,), self._steps)
        return outputs[self.model.output].reshape(len(q), *self.model.output_shape)

    def tensors(self, q: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [n, *input_shape] -> every tensor by name, uint8 [n, *its shape].

        Layer by layer: within a chain tensors are never whole, but their values are the same.
        """
        return self._run(q, tuple(self.model.tensors), self._layers)

    def _run(
        self, q: np.ndarray, names: tuple[str, ...], steps: Sequence[Callable[[], None]]
    ) -> dict[str, np.ndarray]:
        shape = self.model.input_shape
        if not isinstance(q, np.ndarray) or q.dtype != np.uint8 or q.shape[1:] != shape:
            found = f"{q.dtype} {list(q.shape)}" if isinstance(q, np.ndarray) else type(q).__name__
            raise TfmixError(
                f"the input is {found}, uint8 [n, {', '.join(map(str, shape))}] expected"
            )
        results = {
            name: np.empty((len(q), _elements(self.model.tensors[name])), np.uint8)
            for name in names
        }
        first = self._buffers[self.model.input]
        input_bits = self.model.tensors[self.model.input].quant.bits
        for i, image in enumerate(q):
            first[:] = pack(image, input_bits)
            for step in steps:
                step()
            for name, result in results.items():
                bits = self.model.tensors[name].quant.bits
                result[i] = unpack(self._buffers[name], bits, result.shape[1])
        return {
            name: result.reshape(len(q), *self.model.tensors[name].shape)
            for name, result in results.items()
        }


def _scratch(size: int) -> np.ndarray:
    return np.zeros((size + 3) // 4, np.int32)


def _elements(tensor: IntegerTensor) -> int:
    return math.prod(tensor.shape)
