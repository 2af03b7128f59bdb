"""The TFLite schema, as far as tfmix uses it: `TfliteModel` <-> the bytes of a `.tflite` file.

Knows flatbuffers and nothing about quantization. One subgraph of custom operators on uint8 tensors.
`write` spends no bytes on defaults and shares equal vectors; `read` takes any bytes at all and
either understands them or raises FormatError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from tfmix.errors import FormatError

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
CUSTOM = schema.BuiltinOperator.CUSTOM
UINT8 = schema.TensorType.UINT8
#: Buffers begin at a multiple of this in the file, as the schema demands.
BUFFER_ALIGNMENT = 16


@dataclass(frozen=True)
class Quantization:
    """real = scale * (q - zero_point); `scale` is a float32."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Tensor:
    """data: None for an activation, the content of its buffer for a constant."""

    name: str
    shape: tuple[int, ...]
    data: bytes | None = None
    quantization: Quantization | None = None
    type: int = UINT8


@dataclass(frozen=True)
class Operator:
    """inputs, outputs: indices into `TfliteModel.tensors`."""

    custom_code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes


@dataclass(frozen=True)
class TfliteModel:
    """metadata: content by name."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: Mapping[str, bytes] = field(default_factory=dict, hash=False)


# -- writing ------------------------------------------------------------------------------------


def write(model: TfliteModel) -> bytes:
    """The file. Buffers lie side by side at its end, each preceded by its length."""
    return _Writer(sum(len(t.data or b"") for t in model.tensors)).file(model)


class _Writer:
    """A flatbuffer grows from its end: what is written first comes last, children first."""

    def __init__(self, data_bytes: int):
        self._builder = flatbuffers.Builder(data_bytes + 65_536)
        self._shared: dict[Any, int] = {}

    def file(self, model: TfliteModel) -> bytes:
        b = self._builder
        contents = [t.data for t in model.tensors if t.data is not None]
        contents += model.metadata.values()
        data = [self._data(content) for content in contents]
        # Buffer 0 is by convention the empty one that activations refer to.
        buffers = self._tables([self._table(schema.Buffer, data=d) for d in (None, *data)])

        constants = sum(t.data is not None for t in model.tensors)
        metadata = self._tables(
            [
                self._table(schema.Metadata, name=self._string(name), buffer=1 + constants + i)
                for i, name in enumerate(model.metadata)
            ]
        )
        codes = list(dict.fromkeys(op.custom_code for op in model.operators))
        subgraph = self._table(
            schema.SubGraph,
            tensors=self._tensors(model.tensors),
            operators=self._tables([self._operator(op, codes) for op in model.operators]),
            inputs=self._int32s(model.inputs),
            outputs=self._int32s(model.outputs),
        )
        root = self._table(
            schema.Model,
            version=SCHEMA_VERSION,
            operator_codes=self._tables([self._operator_code(code) for code in codes]),
            subgraphs=self._tables([subgraph]),
            buffers=buffers,
            metadata=metadata,
        )
        b.Finish(root, IDENTIFIER)
        return bytes(b.Output())

    def _tensors(self, tensors: Sequence[Tensor]) -> int:
        offsets, buffer = [], 0
        for tensor in tensors:
            buffer += tensor.data is not None
            offsets.append(
                self._table(
                    schema.Tensor,
                    name=self._string(tensor.name),
                    shape=self._int32s(tensor.shape),
                    type=tensor.type,
                    buffer=buffer if tensor.data is not None else 0,
                    quantization=self._quantization(tensor.quantization),
                )
            )
        return self._tables(offsets)

    def _quantization(self, q: Quantization | None) -> int | None:
        if q is None:
            return None
        return self._table(
            schema.QuantizationParameters,
            scale=self._builder.CreateNumpyVector(np.array([q.scale], np.float32)),
            zero_point=self._builder.CreateNumpyVector(np.array([q.zero_point], np.int64)),
        )

    def _operator_code(self, code: str) -> int:
        return self._table(
            schema.OperatorCode,
            custom_code=self._string(code),
            builtin_code=CUSTOM,
            deprecated_builtin_code=CUSTOM,
        )

    def _operator(self, op: Operator, codes: Sequence[str]) -> int:
        return self._table(
            schema.Operator,
            opcode_index=codes.index(op.custom_code),
            inputs=self._int32s(op.inputs),
            outputs=self._int32s(op.outputs),
            custom_options=self._builder.CreateByteVector(op.options),
        )

    def _table(self, table: type, **fields: int | None) -> int:
        """Fields are named as in the schema; one that is None or its default takes no bytes."""
        name = table.__name__
        getattr(schema, f"{name}Start")(self._builder)
        for key, value in fields.items():
            if value is not None:
                camel = "".join(word.capitalize() for word in key.split("_"))
                getattr(schema, f"{name}Add{camel}")(self._builder, value)
        return getattr(schema, f"{name}End")(self._builder)

    def _tables(self, offsets: Sequence[int]) -> int:
        b = self._builder
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return b.EndVector()

    def _string(self, text: str) -> int:
        return self._share(("string", text), lambda: self._builder.CreateString(text))

    def _int32s(self, values: Sequence[int]) -> int:
        key = ("int32s", tuple(values))
        array = np.array(values, np.int32)
        return self._share(key, lambda: self._builder.CreateNumpyVector(array))

    def _share(self, key: Any, create: Callable[[], int]) -> int:
        if key not in self._shared:
            self._shared[key] = create()
        return self._shared[key]

    def _data(self, content: bytes) -> int:
        """CreateByteVector knows no alignment, hence by hand."""
        b = self._builder
        b.StartVector(1, len(content), BUFFER_ALIGNMENT)
        b.head -= len(content)
        b.Bytes[b.head : b.head + len(content)] = content
        return b.EndVector()


# -- reading ------------------------------------------------------------------------------------

#: What the flatbuffers library and NumPy raise when offsets lead out of the file.
_OUT_OF_BOUNDS = (struct.error, ValueError, TypeError, IndexError, OverflowError)


def read(data: bytes) -> TfliteModel:
    """Inverse of `write`. FormatError, saying what was found and expected."""
    return _guarded(lambda: _Reader(data).model())


def operator_names(data: bytes) -> tuple[str, ...]:
    """Names of the operators that a file uses, be it one of ours or not. FormatError as `read`."""
    return _guarded(lambda: _Reader(data).operator_names())


def _guarded(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FormatError:
        raise
    except _OUT_OF_BOUNDS as error:
        raise FormatError(f"damaged or truncated flatbuffer ({error})") from error


class _Reader:
    """flatbuffers for Python has no verifier, so every length is checked before it is used.

    Vectors may be shared, and a hostile file could have a million tables point at one big vector;
    so all that is copied out of a file must not exceed, in sum, a small multiple of its size.
    """

    _MAX_READ_RATIO = 2

    def __init__(self, data: bytes):
        if data[4:8] != IDENTIFIER:
            raise FormatError(
                f"not a TFLite file: bytes 4 to 7 are {data[4:8]!r}, {IDENTIFIER!r} expected"
            )
        self._data = data
        self._budget = self._MAX_READ_RATIO * len(data)
        self._root = schema.Model.GetRootAs(data, 0)
        if self._root.Version() != SCHEMA_VERSION:
            raise FormatError(
                f"TFLite schema version {self._root.Version()}, {SCHEMA_VERSION} expected"
            )

    def operator_names(self) -> tuple[str, ...]:
        codes = self._tables(self._root, "OperatorCodes")
        return tuple(self._operator_name(code) for code in codes)

    def model(self) -> TfliteModel:
        root = self._root
        subgraphs = self._tables(root, "Subgraphs")
        if len(subgraphs) != 1:
            raise FormatError(f"{len(subgraphs)} subgraphs, 1 expected")
        graph = subgraphs[0]
        buffers = self._tables(root, "Buffers")
        codes = self.operator_names()
        return TfliteModel(
            tensors=tuple(self._tensor(t, buffers) for t in self._tables(graph, "Tensors")),
            operators=tuple(self._operator(op, codes) for op in self._tables(graph, "Operators")),
            inputs=self._int32s(graph, "Inputs"),
            outputs=self._int32s(graph, "Outputs"),
            metadata={
                self._string(m.Name(), "metadata name"): self._buffer(buffers, m.Buffer()) or b""
                for m in self._tables(root, "Metadata")
            },
        )

    def _operator_name(self, code: schema.OperatorCode) -> str:
        """The custom name, or something to call a built-in operator by."""
        builtin = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        if builtin != CUSTOM:
            return f"built-in {builtin}"
        return self._string(code.CustomCode(), "custom code")

    def _operator(self, op: schema.Operator, codes: Sequence[str]) -> Operator:
        return Operator(
            custom_code=_at(codes, op.OpcodeIndex(), "operator code"),
            inputs=self._int32s(op, "Inputs"),
            outputs=self._int32s(op, "Outputs"),
            options=self._vector(op, "CustomOptions").tobytes(),
        )

    def _tensor(self, tensor: schema.Tensor, buffers: Sequence[schema.Buffer]) -> Tensor:
        return Tensor(
            name=self._string(tensor.Name(), "tensor name"),
            shape=self._int32s(tensor, "Shape"),
            data=self._buffer(buffers, tensor.Buffer()),
            quantization=self._quantization(tensor.Quantization()),
            type=tensor.Type(),
        )

    def _quantization(self, q: schema.QuantizationParameters | None) -> Quantization | None:
        if q is None:
            return None
        scale, zero_point = self._vector(q, "Scale"), self._vector(q, "ZeroPoint")
        if len(scale) != 1 or len(zero_point) != 1:
            return None  # none, or per channel: nothing that tfmix writes
        return Quantization(float(scale[0]), int(zero_point[0]))

    def _buffer(self, buffers: Sequence[schema.Buffer], index: int) -> bytes | None:
        content = self._vector(_at(buffers, index, "buffer"), "Data")
        if not content.size:
            return None
        start = content.ctypes.data - np.frombuffer(self._data, np.uint8).ctypes.data
        if start % BUFFER_ALIGNMENT:
            raise FormatError(
                f"buffer {index} begins at byte {start}, a multiple of {BUFFER_ALIGNMENT} expected"
            )
        return content.tobytes()

    # -- checked access: `field` is the stem of the generated accessors -------------------------

    def _length(self, table: Any, field: str, item_size: int) -> int:
        length = getattr(table, f"{field}Length")()
        self._spend(length * item_size, field)
        return length

    def _spend(self, size: int, what: str) -> None:
        self._budget -= size
        if self._budget < 0:
            raise FormatError(f"damaged or truncated flatbuffer ({what} of {size} bytes)")

    def _tables(self, table: Any, field: str) -> list[Any]:
        return [getattr(table, field)(i) for i in range(self._length(table, field, 4))]

    def _vector(self, table: Any, field: str) -> np.ndarray:
        """A view of a vector of numbers, empty if there is none."""
        array = getattr(table, f"{field}AsNumpy")()
        if not isinstance(array, np.ndarray):
            return np.empty(0, np.uint8)
        self._spend(array.nbytes, field)
        return array

    def _int32s(self, table: Any, field: str) -> tuple[int, ...]:
        return tuple(self._vector(table, field).tolist())

    def _string(self, raw: bytes | None, what: str) -> str:
        self._spend(len(raw or b""), what)
        try:
            return (raw or b"").decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{what} {error.object[:40]!r} is not UTF-8") from error


def _at(items: Sequence[Any], index: int, what: str) -> Any:
    if not 0 <= index < len(items):
        raise FormatError(f"{what} {index} of {len(items)}")
    return items[index]
