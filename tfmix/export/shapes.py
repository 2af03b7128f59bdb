"""Shapes of activations in the file: what TFLite sees, and what a rank says of a kernel's view."""

from __future__ import annotations

import math

from tfmix.errors import TfmixError
from tfmix.ir.quant import packed_size


def packed_shape(shape: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """Shape of the uint8 tensor that holds `shape` values of `bits` bits, batch of 1 in front.

    The last dimension shrinks to its bytes; where it is no whole number of bytes, the tensor is
    flat, since rows and pixels are packed without gaps.
    """
    if shape[-1] * bits % 8 == 0:
        return (1, *shape[:-1], shape[-1] * bits // 8)
    return (1, packed_size(math.prod(shape), bits))


def shape_of_view(view: tuple[int, int, int], rank: int) -> tuple[int, ...]:
    """Shape of a buffer whose writer sees it as (rows, columns, channels).

    rank 1: (elements,); rank 2: (pixels, channels); rank 3: the view. TfmixError for other ranks.
    """
    rows, columns, channels = view
    if rank == 1:
        return (rows * columns * channels,)
    if rank == 2:
        return (rows * columns, channels)
    if rank == 3:
        return view
    raise TfmixError(f"a tensor of {rank} dimensions, 1 to 3 expected")
