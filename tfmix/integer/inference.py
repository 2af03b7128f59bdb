"""`IntegerModel`: an integer network that runs, on the C kernels or on the NumPy reference."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from tfmix.errors import TfmixError
from tfmix.integer import reference
from tfmix.integer.model import IntegerNetwork
from tfmix.integer.runtime import CRuntime
from tfmix.ir.quant import QuantParams

Backend = Literal["c", "reference"]


class IntegerModel:
    """An integer-only network; both backends give the same bytes.

    "c" runs the kernels that run on the device, built for this machine; "reference" is the slow
    NumPy executor that defines them. A value: equal networks make equal models.
    """

    def __init__(self, network: IntegerNetwork):
        self.network = network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntegerModel) and self.network == other.network

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        n = self.network
        return f"IntegerModel({n.input_shape} -> {n.output_shape}, {len(n.nodes)} nodes)"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.network.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one output."""
        return self.network.output_shape

    @property
    def quantization(self) -> dict[str, QuantParams]:
        """Scale, zero point and bits of each activation tensor, in execution order."""
        return {name: tensor.quant for name, tensor in self.network.tensors.items()}

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Real inputs [n, *input_shape] -> the uint8 values that `run` takes."""
        x = np.asarray(x)
        if x.dtype.kind not in "fiub":
            raise TfmixError(f"input of dtype {x.dtype}; real numbers are needed")
        self._check_shape("input", x)
        if not np.isfinite(x).all():
            raise TfmixError("input holds NaN or infinite values")
        return self.network.tensors[self.network.input].quant.quantize(x)

    def predict(self, x: np.ndarray, backend: Backend = "c") -> np.ndarray:
        """Real inputs [n, *input_shape] -> real outputs, float32 [n, *output_shape]."""
        q = self.run(self.quantize(x), backend)
        return self.network.tensors[self.network.output].quant.dequantize(q)

    def run(self, q: np.ndarray, backend: Backend = "c") -> np.ndarray:
        """uint8 [n, *input_shape] -> uint8 [n, *output_shape]."""
        self._check_integers(q)
        if self._is_c(backend):
            return self._runtime.run(q)
        output = reference.run(self.network, q)[self.network.output]
        return output.reshape(len(q), *self.output_shape)

    def tensors(self, x: np.ndarray, backend: Backend = "c") -> dict[str, np.ndarray]:
        """Every activation tensor for real inputs x: name -> uint8 [n, *shape].

        `quantization[name]` tells what the integers stand for.
        """
        q = self.quantize(x)
        return self._runtime.tensors(q) if self._is_c(backend) else reference.run(self.network, q)

    # -- helpers ----------------------------------------------------------------------------

    @cached_property
    def _runtime(self) -> CRuntime:
        return CRuntime(self.network)

    @staticmethod
    def _is_c(backend: str) -> bool:
        if backend not in ("c", "reference"):
            raise TfmixError(f"backend {backend!r} is not one of ('c', 'reference')")
        return backend == "c"

    def _check_shape(self, what: str, x: np.ndarray) -> None:
        if x.shape[1:] != self.input_shape or x.ndim != len(self.input_shape) + 1:
            raise TfmixError(
                f"{what} of shape {x.shape}; {self.network.input} takes "
                f"(n, {', '.join(map(str, self.input_shape))})"
            )

    def _check_integers(self, q: np.ndarray) -> None:
        dtype = getattr(q, "dtype", type(q).__name__)
        if dtype != np.uint8:
            raise TfmixError(f"run takes uint8 values, not {dtype}; use predict for real ones")
        self._check_shape("integer input", q)
