"""Random integer networks with a chain in them: whatever a chain may have, at small sizes.

Kernels of 1 to 5 rows and columns, strides 1 to 3, any padding, residuals that begin inside and
outside, any bits, odd sizes as far as rows fill whole bytes, bands, pools over the whole image.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from integer_models import ModelBuilder, View

from tfmix.integer.model import IntegerNetwork, IntegerTensor, Kernel, canonical_window
from tfmix.integer.schedule import STREAMABLE_KERNELS
from tfmix.ir.graph import Window, same_padding
from tfmix.ir.quant import BIT_WIDTHS

#: Kernels of a chain's layers, the frequent ones more than once.
_KERNELS = (
    *(Kernel.CONV2D, Kernel.CONV2D, Kernel.DEPTHWISE_CONV2D, Kernel.DEPTHWISE_CONV2D),
    *(Kernel.ADD, Kernel.ADD, Kernel.REQUANTIZE, Kernel.AVERAGE_POOL, Kernel.MAX_POOL),
)


def random_chain(
    seed: int, kernels: tuple[Kernel, ...] = _KERNELS, *, first: bool = False
) -> IntegerNetwork:
    """A network with one chain of 1 to 9 layers, and one node behind it or none.

    first: the chain begins with the network's input; otherwise up to two nodes stand before it.
    """
    rng = np.random.default_rng(seed)
    builder = _ChainBuilder(rng)
    for _ in range(0 if first else rng.integers(3)):
        builder.grow((Kernel.REQUANTIZE, Kernel.CONV2D))
    begin = len(builder.nodes)
    for _ in range(rng.integers(1, 9)):
        builder.grow(kernels)
    if rng.integers(3) == 0:
        builder.pool_whole()
    nodes = builder.nodes[begin:]
    model = builder.finish()
    chain = tuple(node.name for node in nodes)
    bands = {
        node.name: int(rng.integers(1, node.output_shape[0] + 1))
        for node in nodes
        if rng.integers(4) == 0
    }
    return replace(model, chains=(chain,), bands={n: b for n, b in bands.items() if b > 1})


class _ChainBuilder(ModelBuilder):
    """Sees tensors as they are, and makes none whose rows do not fill whole bytes."""

    def __init__(self, rng: np.random.Generator):
        rows, columns, channels = (int(n) for n in rng.integers((4, 2, 1), (19, 15, 9)))
        super().__init__(rng, (rows, columns, channels))

    def grow(self, kernels: tuple[Kernel, ...]) -> None:
        before = len(self.nodes), dict(self.tensors)
        for _ in range(20):
            self.add(kernels[self.rng.integers(len(kernels))])
            if self._last_is_whole():
                return
            del self.nodes[before[0] :]
            self.tensors = dict(before[1])
        self.requantize_to(8)

    def pool_whole(self) -> None:
        """An average pool over the whole image."""
        x = self.last
        view = self.view(x)
        self._write(
            Kernel.AVERAGE_POOL,
            [x],
            [view],
            (1, 1, view[2]),
            self.quant(8),
            window=Window(view[:2]),
            rescales=(self._rescale(),),
        )

    def view(self, tensor: IntegerTensor) -> View:
        shape = (1, 1, *tensor.shape)[-3:]
        return shape[0], shape[1], shape[2]

    def quant(self, bits: int | None = None):
        # Eight bits more often, or few rows would be whole bytes.
        bits = bits or int(self.rng.choice((*BIT_WIDTHS, 8)))
        return super().quant(bits)

    def _last_is_whole(self) -> bool:
        node = self.nodes[-1]
        assert node.kernel in STREAMABLE_KERNELS
        shapes = (*node.input_shapes, node.output_shape)
        return all(
            math.prod(shape[1:]) * self.tensors[name].quant.bits % 8 == 0
            for name, shape in zip((*node.inputs, node.output), shapes, strict=True)
        )

    def _window(self, view: View) -> tuple[Window, tuple[int, int]]:
        rng = self.rng
        strides = tuple(int(n) for n in rng.choice((1, 1, 1, 2, 2, 3), 2))
        padding = ("same", "valid", "any")[rng.integers(3)]
        kernel = tuple(int(rng.integers(1, 6)) for _ in view[:2])
        if padding == "same":
            sides = [*map(same_padding, view[:2], kernel, strides)]
        else:
            kernel = tuple(map(min, kernel, view[:2]))
            most = (0, 0) if padding == "valid" else kernel
            sides = [tuple(int(n) for n in rng.integers(0, max(m, 1), 2)) for m in most]
        window = canonical_window(Window(kernel, strides, (*sides[0], *sides[1])), *view[:2])
        return window, window.output_size(*view[:2])
