"""Damaged `.tflite` files, by chance but the same for the same seed.

Some of the damage is to bytes: what a broken disk or a careless attacker does. Some is to what the
file says, written out again as a sound flatbuffer: so that it reaches the checks behind the parser.
And some is to weights, biases and multipliers alone, which mostly reaches the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tfmix.errors import TfmixError
from tfmix.export import tflite
from tfmix.export.options import op_name
from tfmix.export.streams import STREAM
from tfmix.integer import abi

#: Numbers that a length, an offset or a size should not be.
NASTY = (0, 1, 2, 16, 255, 256, 1 << 16, 1 << 30, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

_OPERATORS = (*(op_name(variant) for variant in abi.all_variants()), *[op_name(STREAM)] * 9)


def mutant(files: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of `files`, which need not be sound themselves, with one to a few changes."""
    data = files[rng.integers(len(files))]
    kind = rng.integers(5)
    if kind == 4:
        return _with_other_constants(data, rng)
    if kind < 3:
        data = _with_other_meaning(data, rng)
    if kind > 1:
        data = _with_other_bytes(data, files, rng)
    return data


def nasty(rng: np.random.Generator) -> int:
    return int(rng.choice(NASTY))


# -- bytes --------------------------------------------------------------------------------------


def _with_other_bytes(data: bytes, files: Sequence[bytes], rng: np.random.Generator) -> bytes:
    file = bytearray(data or b"\0")
    kind = rng.integers(5)
    if kind == 0:  # flips
        for _ in range(rng.integers(1, 8)):
            file[rng.integers(len(file))] = rng.integers(256)
    elif kind == 1:  # truncation
        del file[rng.integers(len(file)) :]
    elif kind == 2:  # splice
        other = files[rng.integers(len(files))] or b"\0"
        file[rng.integers(len(file)) :] = other[rng.integers(len(other)) :]
    else:  # a word: another offset, length or index
        at = 4 * int(rng.integers(max(1, len(file) // 4)))
        old = int.from_bytes(file[at : at + 4], "little")
        step = int(rng.integers(-8, 9))
        new = nasty(rng) if kind == 3 else (old + step) % (1 << 32)
        file[at : at + 4] = new.to_bytes(4, "little")
    return bytes(file)


# -- constants ----------------------------------------------------------------------------------


def _with_other_constants(data: bytes, rng: np.random.Generator) -> bytes:
    try:
        file = tflite.read(data)
    except TfmixError:
        return data
    tensors = list(file.tensors)
    for i, tensor in enumerate(tensors):
        if tensor.data and rng.integers(2):
            noise = bytearray(tensor.data)
            for _ in range(rng.integers(1, 9)):
                noise[rng.integers(len(noise))] = rng.integers(256)
            tensors[i] = replace(tensor, data=bytes(noise))
    return tflite.write(replace(file, tensors=tuple(tensors)))


# -- meaning ------------------------------------------------------------------------------------


def _with_other_meaning(data: bytes, rng: np.random.Generator) -> bytes:
    try:
        file = tflite.read(data)
        for _ in range(rng.integers(1, 4)):
            change = _CHANGES[rng.integers(len(_CHANGES))]
            file = change(file, rng)
        return tflite.write(file)
    except (TfmixError, OverflowError, ValueError, TypeError):
        return data  # not to be read, or not to be written


def _options_word(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    def change(operator: tflite.Operator) -> tflite.Operator:
        words = bytearray(operator.options)
        if len(words) < 4:
            return operator
        at = 4 * int(rng.integers(len(words) // 4))
        old = int.from_bytes(words[at : at + 4], "little")
        new = nasty(rng) if rng.integers(2) else (old + int(rng.integers(-2, 3))) % (1 << 32)
        words[at : at + 4] = new.to_bytes(4, "little")
        return replace(operator, options=bytes(words))

    return _one_operator(file, rng, change)


def _options_size(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    def change(operator: tflite.Operator) -> tflite.Operator:
        size = int(rng.integers(len(operator.options) + 1))
        return replace(operator, options=_resized(operator.options, size, rng))

    return _one_operator(file, rng, change)


def _operator_code(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    code = _OPERATORS[rng.integers(len(_OPERATORS))]
    return _one_operator(file, rng, lambda operator: replace(operator, custom_code=code))


def _operator_tensors(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    field = ("inputs", "outputs")[rng.integers(2)]
    return _one_operator(
        file,
        rng,
        lambda operator: replace(
            operator, **{field: _indices(getattr(operator, field), file, rng)}
        ),
    )


def _graph_tensors(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    field = ("inputs", "outputs")[rng.integers(2)]
    return replace(file, **{field: _indices(getattr(file, field), file, rng)})


def _operator_order(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    operators = list(file.operators)
    if not operators:
        return file
    one = operators[rng.integers(len(operators))]
    kind = rng.integers(3)
    if kind == 0:
        operators.remove(one)
    else:
        operators.insert(int(rng.integers(len(operators) + 1)), one)
        if kind == 1:
            operators.reverse()
    return replace(file, operators=tuple(operators))


def _tensor_shape(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    def change(tensor: tflite.Tensor) -> tflite.Tensor:
        shape = list(tensor.shape) or [1]
        shape[rng.integers(len(shape))] = int(np.int32(np.uint32(nasty(rng))))
        if rng.integers(4) == 0:
            shape = shape[: rng.integers(len(shape) + 1)]
        return replace(tensor, shape=tuple(shape))

    return _one_tensor(file, rng, change)


def _tensor_data(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    """Mostly of constants; a changed size is now and then told to the shape too."""

    def change(tensor: tflite.Tensor) -> tflite.Tensor:
        data = tensor.data or b""
        if rng.integers(2) and data:
            noise = bytearray(data)
            noise[rng.integers(len(noise))] = rng.integers(256)
            return replace(tensor, data=bytes(noise))
        size = max(0, len(data) + int(rng.integers(-9, 10)))
        shape = (size,) if rng.integers(2) else tensor.shape
        return replace(tensor, data=_resized(data, size, rng) or None, shape=shape)

    return _one_tensor(file, rng, change)


def _tensor_rest(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    def change(tensor: tflite.Tensor) -> tflite.Tensor:
        kind = rng.integers(3)
        if kind == 0:
            return replace(tensor, type=int(rng.integers(20)))
        if kind == 1:
            return replace(tensor, name=("", "input", "x\0y", "é" * 50)[rng.integers(4)])
        scale = float(rng.choice([0, -1, 1e-45, 1, 3e38, np.inf, np.nan]))
        return replace(tensor, quantization=tflite.Quantization(scale, int(rng.integers(-1, 300))))

    return _one_tensor(file, rng, change)


def _metadata(file: tflite.TfliteModel, rng: np.random.Generator) -> tflite.TfliteModel:
    changed = dict(file.metadata)
    for name, content in file.metadata.items():
        changed[name] = _with_other_bytes(content, [content], rng)
    if rng.integers(4) == 0:
        changed["more"] = bytes(int(rng.integers(64)))
    return replace(file, metadata=changed)


_CHANGES: tuple[Callable[[tflite.TfliteModel, np.random.Generator], tflite.TfliteModel], ...] = (
    _options_word,
    _options_word,
    _options_word,
    _options_size,
    _operator_code,
    _operator_tensors,
    _operator_order,
    _graph_tensors,
    _tensor_shape,
    _tensor_data,
    _tensor_data,
    _tensor_rest,
    _metadata,
)


# -- helpers ------------------------------------------------------------------------------------


def _one_operator(
    file: tflite.TfliteModel,
    rng: np.random.Generator,
    change: Callable[[tflite.Operator], tflite.Operator],
) -> tflite.TfliteModel:
    operators = list(file.operators)
    if operators:
        at = rng.integers(len(operators))
        operators[at] = change(operators[at])
    return replace(file, operators=tuple(operators))


def _one_tensor(
    file: tflite.TfliteModel,
    rng: np.random.Generator,
    change: Callable[[tflite.Tensor], tflite.Tensor],
) -> tflite.TfliteModel:
    tensors = list(file.tensors)
    if tensors:
        at = rng.integers(len(tensors))
        tensors[at] = change(tensors[at])
    return replace(file, tensors=tuple(tensors))


def _indices(
    indices: tuple[int, ...], file: tflite.TfliteModel, rng: np.random.Generator
) -> tuple[int, ...]:
    new = list(indices)
    kind = rng.integers(3)
    if kind == 0 or not new:
        new.append(int(rng.integers(-1, len(file.tensors) + 1)))
    elif kind == 1:
        new[rng.integers(len(new))] = int(rng.integers(-1, len(file.tensors) + 1))
    else:
        del new[rng.integers(len(new))]
    return tuple(new)


def _resized(data: bytes, size: int, rng: np.random.Generator) -> bytes:
    return data[:size] + rng.bytes(max(0, size - len(data)))
