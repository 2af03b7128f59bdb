"""Counts the products that chains compute, by kernels that say how many before they compute."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from tfmix.integer import abi, runtime
from tfmix.integer.stream import StreamCall

_CONV2D, _DEPTHWISE_CONV2D = 1, 2  # tfmix_stream_kind
_Run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)


class Products:
    """count: of all calls so far, padding included."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, kernel: int, params: int) -> None:
        p = abi.ConvParams.from_address(params)
        products = p.output_height * p.output_width * p.output_channels
        products *= p.kernel_height * p.kernel_width
        self.count += products * (p.input_channels if kernel == _CONV2D else 1)


@contextmanager
def counted_products() -> Iterator[Products]:
    """While it lasts, `bind_stream` and `CRuntime` make chains that are counted."""
    products, original = Products(), runtime.stream_struct

    def counting(kernel: int, address: int) -> _Run:
        run = _Run(address)

        def count_and_run(params: int, *buffers: int) -> None:
            products.add(kernel, params)
            run(params, *buffers)

        return _Run(count_and_run)

    def stream_struct(call: StreamCall) -> ctypes.Structure:
        stream = original(call)
        table = (type(stream.kernels.contents) * stream.kernel_count)()
        kept = [table]
        for entry, kernel in zip(table, stream.kernels, strict=False):
            ctypes.pointer(entry)[0] = kernel
            if kernel.kernel in (_CONV2D, _DEPTHWISE_CONV2D):
                kept.append(counting(kernel.kernel, kernel.run))
                entry.run = ctypes.cast(kept[-1], ctypes.c_void_p).value
        stream.kernels = table
        stream.keep_alive = kept
        return stream

    with mock.patch.object(runtime, "stream_struct", stream_struct):
        yield products
