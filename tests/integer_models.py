"""Random valid IntegerNetworks with made-up parameters, for tests that need no Keras.

Every kernel, bit-width, flavour, odd channel count, asymmetric padding, branch and reshape occurs.
The arithmetic stays within the bounds of docs/arithmetic.md, so that the models can also be run.
"""

from __future__ import annotations

import math

import numpy as np

from tfmix.integer.model import (
    AddRescale,
    IntegerNetwork,
    IntegerNode,
    IntegerTensor,
    IntegerWeights,
    Kernel,
    Rescale,
    canonical_window,
)
from tfmix.ir.graph import FIXED_BITS, SOFTMAX_SCALE, Window, same_padding
from tfmix.ir.quant import BIT_WIDTHS, QuantParams, max_level

View = tuple[int, int, int]


def random_model(
    seed: int, nodes: int = 6, kernels: tuple[Kernel, ...] = tuple(Kernel)
) -> IntegerNetwork:
    """A model of at least `nodes` nodes, drawn from `kernels` where shapes and bits allow."""
    builder = ModelBuilder(np.random.default_rng(seed))
    while len(builder.nodes) < nodes:
        builder.add(kernels[builder.rng.integers(len(kernels))])
    return builder.finish()


def model_of(kernel: Kernel, seed: int = 0) -> IntegerNetwork:
    """A small model with a node of `kernel` between requantizes."""
    builder = ModelBuilder(np.random.default_rng(seed))
    if kernel is not Kernel.SOFTMAX:
        builder.add(Kernel.REQUANTIZE)
    builder.add(kernel)
    builder.requantize_to(FIXED_BITS)
    return builder.finish()


def random_weights(
    rng: np.random.Generator, shape: tuple[int, ...], channels: int, *, bits: int | None = None
) -> IntegerWeights:
    bits = bits or int(rng.choice(BIT_WIDTHS))
    per_channel = bool(rng.integers(2))
    multipliers = channels if per_channel or rng.integers(2) else 1
    return IntegerWeights(
        values=rng.integers(0, max_level(bits) + 1, shape, np.uint8),
        bits=bits,
        per_channel=per_channel,
        zero_point=rng.integers(0, max_level(bits) + 1, channels if per_channel else 1, np.uint8),
        bias=rng.integers(-(1 << 18), 1 << 18, channels, np.int32),
        multiplier=rng.integers(-(1 << 24), 1 << 24, multipliers, np.int32),
        left_shift=int(rng.integers(3)),
    )


class ModelBuilder:
    """Grows a model node by node; each reads what an earlier one wrote."""

    def __init__(self, rng: np.random.Generator, input_shape: tuple[int, ...] | None = None):
        self.rng = rng
        self.nodes: list[IntegerNode] = []
        self.input = IntegerTensor(
            "input",
            input_shape or tuple(int(n) for n in rng.integers(3, 9, 3)),
            self.quant(FIXED_BITS),
        )
        self.tensors = {self.input.name: self.input}

    def finish(self) -> IntegerNetwork:
        last = self.last
        if last is self.input or last.quant.bits != FIXED_BITS:
            last = self.requantize_to(FIXED_BITS)
        reshaped = self.rng.integers(2) and len(last.shape) == 3
        return IntegerNetwork(
            input=self.input.name,
            output=last.name,
            input_shape=self.input.shape,
            output_shape=(math.prod(last.shape), 1) if reshaped else last.shape,
            tensors=dict(self.tensors),
            nodes=tuple(self.nodes),
        )

    @property
    def last(self) -> IntegerTensor:
        return next(reversed(self.tensors.values()))

    def quant(self, bits: int | None = None) -> QuantParams:
        bits = bits or int(self.rng.choice(BIT_WIDTHS))
        scale = float(np.float32(self.rng.uniform(0.001, 0.2)))
        return QuantParams(scale, int(self.rng.integers(max_level(bits) + 1)), bits)

    def view(self, tensor: IntegerTensor) -> View:
        """As the next node sees it: mostly as it is, sometimes through a reshape."""
        *pixels, channels = tensor.shape
        rows, columns = pixels if len(pixels) == 2 else (1, math.prod(pixels))
        if self.rng.integers(4) == 0:
            rows, columns = columns, rows
        return rows, columns, channels

    def add(self, kernel: Kernel) -> IntegerTensor:
        source = self.last
        if kernel is Kernel.SOFTMAX and source.quant.bits != FIXED_BITS:
            kernel = Kernel.REQUANTIZE
        return getattr(self, f"_{kernel.value}")(source, self.view(source))

    def requantize_to(self, bits: int) -> IntegerTensor:
        return self._requantize(self.last, self.view(self.last), bits)

    # -- one method per kernel --------------------------------------------------------------

    def _write(
        self,
        kernel: Kernel,
        sources: list[IntegerTensor],
        views: list[View],
        output: View,
        quant: QuantParams,
        **fields: object,
    ) -> IntegerTensor:
        index = len(self.nodes)
        name = f"{kernel.value}_{index}"
        output_name = name if self.rng.integers(2) else f"{name}/rélu"
        shape: tuple[int, ...] = output
        if output[:2] == (1, 1) and self.rng.integers(2):
            shape = output[2:]
        elif output[0] == 1 and self.rng.integers(2):
            shape = output[1:]
        tensor = IntegerTensor(output_name, shape, quant)
        self.nodes.append(
            IntegerNode(
                name=name,
                kernel=kernel,
                inputs=tuple(source.name for source in sources),
                output=output_name,
                input_shapes=tuple(views),
                output_shape=output,
                **fields,
            )
        )
        self.tensors[output_name] = tensor
        return tensor

    def _window(self, view: View) -> tuple[Window, tuple[int, int]]:
        rng = self.rng
        kernel = tuple(int(rng.integers(1, min(3, size) + 1)) for size in view[:2])
        strides = tuple(int(n) for n in rng.integers(1, 4, 2))
        choice = rng.integers(3)
        if choice == 0:
            padding = (0, 0, 0, 0)
        elif choice == 1:
            vertical, horizontal = map(same_padding, view[:2], kernel, strides)
            padding = (*vertical, *horizontal)
        else:
            padding = tuple(int(rng.integers(kernel[i // 2])) for i in range(4))
        window = canonical_window(Window(kernel, strides, padding), *view[:2])
        return window, window.output_size(*view[:2])

    def _conv2d(self, x: IntegerTensor, view: View) -> IntegerTensor:
        window, size = self._window(view)
        oc = int(self.rng.integers(1, 8))
        weights = random_weights(self.rng, (oc, *window.kernel, view[2]), oc)
        return self._write(
            Kernel.CONV2D, [x], [view], (*size, oc), self.quant(), window=window, weights=weights
        )

    def _depthwise_conv2d(self, x: IntegerTensor, view: View) -> IntegerTensor:
        window, size = self._window(view)
        oc = view[2] * int(self.rng.integers(1, 3))
        weights = random_weights(self.rng, (*window.kernel, oc), oc)
        return self._write(
            Kernel.DEPTHWISE_CONV2D,
            [x],
            [view],
            (*size, oc),
            self.quant(),
            window=window,
            weights=weights,
        )

    def _fully_connected(self, x: IntegerTensor, view: View) -> IntegerTensor:
        features, oc = math.prod(view), int(self.rng.integers(1, 12))
        if self.rng.integers(2):
            view = (1, 1, features)
        weights = random_weights(self.rng, (oc, features), oc)
        return self._write(
            Kernel.FULLY_CONNECTED, [x], [view], (1, 1, oc), self.quant(), weights=weights
        )

    def _add(self, x: IntegerTensor, view: View) -> IntegerTensor:
        peers = [t for t in self.tensors.values() if t.shape == x.shape]
        peer = peers[self.rng.integers(len(peers))]
        multipliers = tuple(int(n) for n in self.rng.integers(-(1 << 21), (1 << 21) + 1, 2))
        add = AddRescale(multipliers, int(self.rng.integers(-(1 << 28), 1 << 28)), 22)
        return self._write(Kernel.ADD, [x, peer], [view, view], view, self.quant(), add=add)

    def _multiply(self, x: IntegerTensor, view: View) -> IntegerTensor:
        peers = {
            t.name: (1, 1, view[2]) if math.prod(t.shape) == view[2] else view
            for t in self.tensors.values()
            if t.shape == x.shape or math.prod(t.shape) == view[2]
        }
        name = list(peers)[self.rng.integers(len(peers))]
        return self._write(
            Kernel.MULTIPLY,
            [x, self.tensors[name]],
            [view, peers[name]],
            view,
            self.quant(),
            rescales=(self._rescale(),),
        )

    def _concatenate(self, x: IntegerTensor, view: View) -> IntegerTensor:
        others = [t for t in self.tensors.values() if len(t.shape) == 3 and t.shape[:2] == view[:2]]
        count = int(self.rng.integers(min(3, len(others) + 1)))
        picked = [others[i] for i in self.rng.integers(len(others), size=count)] if count else []
        views = [view, *(t.shape for t in picked)]
        return self._write(
            Kernel.CONCATENATE,
            [x, *picked],
            views,
            (*view[:2], sum(v[2] for v in views)),
            self.quant(),
            rescales=tuple(self._rescale() for _ in views),
        )

    def _rescale(self) -> Rescale:
        return Rescale(int(self.rng.integers(1, 1 << 31)), int(self.rng.integers(6)))

    def _requantize(self, x: IntegerTensor, view: View, bits: int | None = None) -> IntegerTensor:
        return self._write(
            Kernel.REQUANTIZE, [x], [view], view, self.quant(bits), rescales=(self._rescale(),)
        )

    def _lookup(self, x: IntegerTensor, view: View) -> IntegerTensor:
        quant = self.quant()
        table = self.rng.integers(
            max_level(quant.bits) + 1, size=max_level(x.quant.bits) + 1, dtype=np.uint8
        )
        return self._write(Kernel.LOOKUP, [x], [view], view, quant, table=table)

    def _average_pool(self, x: IntegerTensor, view: View) -> IntegerTensor:
        window, size = self._window(view)
        return self._write(
            Kernel.AVERAGE_POOL,
            [x],
            [view],
            (*size, view[2]),
            self.quant(),
            window=window,
            rescales=(self._rescale(),),
        )

    def _max_pool(self, x: IntegerTensor, view: View) -> IntegerTensor:
        window, size = self._window(view)
        return self._write(Kernel.MAX_POOL, [x], [view], (*size, view[2]), x.quant, window=window)

    def _pad(self, x: IntegerTensor, view: View) -> IntegerTensor:
        top, bottom, left, right = (int(n) for n in self.rng.integers(0, 3, 4))
        padded = (view[0] + top + bottom, view[1] + left + right, view[2])
        return self._write(
            Kernel.PAD, [x], [view], padded, x.quant, padding=(top, bottom, left, right)
        )

    def _softmax(self, x: IntegerTensor, view: View) -> IntegerTensor:
        d = np.arange(256)
        table = np.floor(65_535 * np.exp(-d * x.quant.scale) + 0.5).astype(np.uint16)
        return self._write(
            Kernel.SOFTMAX,
            [x],
            [view],
            view,
            QuantParams(SOFTMAX_SCALE, 0, FIXED_BITS),
            table=table[: np.flatnonzero(table)[-1] + 1].copy(),
        )
