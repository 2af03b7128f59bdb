"""Reading: the exact inverse of writing, and FormatError for everything else."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from integer_models import model_of, random_model

from tfmix.errors import FormatError, TfmixError
from tfmix.export import tflite
from tfmix.export.flatbuffer import ARENA_METADATA, describe, export_network, serialize
from tfmix.export.load import deserialize, load_network
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.policy.cost.arena import plan


def _described(model: IntegerNetwork) -> tflite.TfliteModel:
    return describe(model, plan(schedule_of(model)).offsets)


# -- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(80))
def test_load_inverts_export(seed, tmp_path):
    model = random_model(seed, nodes=8)
    loaded = load_network(export_network(model, tmp_path / "model.tflite"))
    assert loaded == model
    assert list(loaded.tensors) == [model.input, *(node.output for node in model.nodes)]


@pytest.mark.parametrize("kernel", Kernel)
@pytest.mark.parametrize("seed", range(8))
def test_every_kernel_round_trips(kernel, seed):
    model = model_of(kernel, seed)
    assert deserialize(serialize(model)) == model


@pytest.mark.parametrize("seed", range(10))
def test_read_inverts_write(seed):
    file = _described(random_model(seed))
    assert tflite.read(tflite.write(file)) == file


def test_weights_that_are_all_zero_round_trip():
    model = model_of(Kernel.CONV2D)
    for node in model.nodes:
        if node.weights is not None:
            for array in (node.weights.values, node.weights.bias, node.weights.zero_point):
                array[...] = 0
    assert deserialize(serialize(model)) == model


# -- files that are no files of ours --------------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"not a TFLite file: bytes 4 to 7 are b'', b'TFL3' expected"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), r"not a TFLite file: bytes 4 to 7 are b'\\r\\n"),
        (b"TFL3", "not a TFLite file"),
        (b"\x40\0\0\0TFL3", "damaged or truncated flatbuffer"),
        (b"\xff" * 4 + b"TFL3" + bytes(100), "damaged or truncated flatbuffer"),
        (bytes(4) + b"TFL3" + bytes(100), "TFLite schema version 0, 3 expected"),
    ],
)
def test_foreign_bytes(content, message, tmp_path):
    path = tmp_path / "some.tflite"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as error:
        load_network(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FormatError, match="none.tflite: cannot be read: No such file"):
        load_network(tmp_path / "none.tflite")


def test_a_directory(tmp_path):
    with pytest.raises(FormatError, match="cannot be read: Is a directory"):
        load_network(tmp_path)


def test_a_network_of_built_in_operators(tmp_path):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])
    def function(x):
        return tf.nn.softmax(x + 1.0)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    path = tmp_path / "float.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(FormatError, match="not written by tfmix: operators built-in 0, built-in "):
        load_network(path)


# -- well-formed files that say something wrong ---------------------------------------------------

Change = Callable[[tflite.TfliteModel], tflite.TfliteModel]


def _operator(position: int, **fields: object) -> Change:
    """Replaces fields of an operator; a callable is given the old value."""

    def change(file: tflite.TfliteModel) -> tflite.TfliteModel:
        operators = list(file.operators)
        old = operators[position]
        new = {k: v(getattr(old, k)) if callable(v) else v for k, v in fields.items()}
        operators[position] = replace(old, **new)
        return replace(file, operators=tuple(operators))

    return change


def _options(position: int, offset: int, data: bytes) -> Change:
    """Overwrites bytes of an operator's options."""
    return _operator(position, options=lambda old: old[:offset] + data + old[offset + len(data) :])


def _tensor(index: int, **fields: object) -> Change:
    def change(file: tflite.TfliteModel) -> tflite.TfliteModel:
        tensors = list(file.tensors)
        old = tensors[index]
        new = {k: v(getattr(old, k)) if callable(v) else v for k, v in fields.items()}
        tensors[index] = replace(old, **new)
        return replace(file, tensors=tuple(tensors))

    return change


def _plan(change: Callable[[list[int]], list[int]]) -> Change:
    def apply(file: tflite.TfliteModel) -> tflite.TfliteModel:
        numbers = np.frombuffer(file.metadata[ARENA_METADATA], "<i4").tolist()
        return replace(file, metadata={ARENA_METADATA: np.int32(change(numbers)).tobytes()})

    return apply


# The model of these tests: tensor 0, the input; operator 0, a requantize, writes tensor 1;
# operator 1, a conv2d, has its constants in tensor 2 and writes tensor 3; operator 2 requantizes to
# tensor 4, the output.
HEADER, CONV_HEADER = 20, 12
BAD_FILES: list[tuple[str, Change, str]] = [
    ("no operators", lambda f: replace(f, operators=()), "operators none; TFMIX_... expected"),
    ("two inputs", lambda f: replace(f, inputs=(0, 1)), "2 inputs, 1 expected"),
    ("no output", lambda f: replace(f, outputs=()), "0 outputs, 1 expected"),
    ("input out of range", lambda f: replace(f, inputs=(99,)), "tensor 99, 0 to 4 expected"),
    ("output out of range", lambda f: replace(f, outputs=(-1,)), "tensor -1, 0 to 4 expected"),
    ("output not written", lambda f: replace(f, outputs=(2,)), "operator 2: tensor .* of shape"),
    ("type", _tensor(1, type=9), "is of TFLite type 9, 3"),
    # operators
    ("unknown op", _operator(1, custom_code="TFMIX_GELU_A8O8"), "no kernel variant 'gelu_a8o8'"),
    ("lower case", _operator(0, custom_code="TFMIX_add_a8b8o8"), "a variant in capitals expected"),
    ("foreign op", _operator(1, custom_code="Conv"), "not written by tfmix: operators Conv; "),
    ("other bits", _operator(0, custom_code="TFMIX_REQUANTIZE_A4O8"), "requantize_a8o8 expected"),
    ("other kernel", _operator(0, custom_code="TFMIX_MAX_POOL_A8"), "max_pool parameters of 20"),
    ("no inputs", _operator(1, inputs=()), "operator 1: no inputs"),
    ("only constants", _operator(1, inputs=(2,)), "operator 1: no inputs"),
    ("too many inputs", _operator(0, inputs=(0, 0)), "inputs 2, 1 expected"),
    ("two outputs", _operator(0, outputs=(1, 3)), "operator 0: 2 outputs, 1 expected"),
    ("index too high", _operator(0, inputs=(5,)), "operator 0: tensor 5, 0 to 4 expected"),
    ("index negative", _operator(0, inputs=(-1,)), "operator 0: tensor -1, 0 to 4 expected"),
    ("own output", _operator(0, inputs=(1,)), "operator 0: tensor 1, .* read before it is written"),
    ("written twice", _operator(2, outputs=(3,)), "operator 2: tensor 3, .* defined twice"),
    ("writes constants", _operator(2, outputs=(2,)), "output 'conv2d_1' is a constant"),
    ("out of order", lambda f: replace(f, operators=f.operators[::-1]), "before it is written"),
    # constants
    ("constants cut", _tensor(2, data=lambda d: d[:-1]), r"constants 'conv2d_1' of shape"),
    (
        "constants of another size",
        _tensor(2, data=lambda d: d + b"\0", shape=lambda s: (s[0] + 1,)),
        r"operator 1: constants block of \d+ bytes, \d+ expected",
    ),
    ("constants missing", _tensor(2, data=None), "tensor 'conv2d_1' at offset -1"),
    # options
    ("magic", _options(0, 0, b"TFMY"), "custom options begin with b'TFMY', b'TFMX' expected"),
    ("no options", _operator(0, options=b""), "custom options begin with b''"),
    ("short options", _operator(0, options=b"TFMX\1\0"), "custom options of 6 bytes, 12 or more"),
    ("newer version", _options(2, 4, b"\2\0"), "operator 2: format version 2, .* update tfmix"),
    ("version 0", _options(0, 4, b"\0\0"), "format version 0, 1 to 1 expected"),
    ("header size", _options(0, 6, b"\x0d"), "header of 13 in .* 12 or 20 expected"),
    ("no plane", _options(0, 6, b"\x0c"), "operator 0: "),
    ("plane of zero", _options(0, 12, bytes(4)), "input plane of 0 x"),
    ("another plane", _options(0, 12, struct.pack("<2i", 1009, 1)), "do not split into 1009"),
    ("rank 0", _options(0, 7, b"\0"), "operator 0: a tensor of 0 dimensions, 1 to 3 expected"),
    ("rank 9", _options(0, 7, b"\x09"), "operator 0: a tensor of 9 dimensions, 1 to 3 expected"),
    ("scale nan", _options(0, 8, struct.pack("<f", np.nan)), "scale nan is not a positive finite"),
    ("scale inf", _options(0, 8, struct.pack("<f", np.inf)), "scale inf is not a positive finite"),
    ("scale 0", _options(0, 8, bytes(4)), "scale 0.0 is not a positive finite"),
    ("options cut", _operator(0, options=lambda o: o[:-1]), "parameters of 19 bytes, 20 expected"),
    ("name not text", _operator(0, options=lambda o: o + b"\xff"), r"name b'\\xff' is not UTF-8"),
    # parameters
    (
        "zero point of the output",
        _options(0, HEADER + 8, struct.pack("<i", 256)),
        r"zero_point 256 is not in \[0, ",
    ),
    (
        "zero point of the input",
        _options(0, HEADER + 4, struct.pack("<i", 256)),
        "requantize_0: parameters .* contradict the tensors",
    ),
    ("elements", _options(0, HEADER, struct.pack("<i", 0)), "elements is 0, at least 1 expected"),
    ("stride 0", _options(1, CONV_HEADER + 32, bytes(4)), "stride_height is 0, at least 1"),
    ("pad", _options(1, CONV_HEADER + 40, struct.pack("<i", -1)), "conv2d_1: padding is -1"),
    (
        "channels",
        _options(1, CONV_HEADER + 8, struct.pack("<i", 1 << 30)),
        r"constants block of \d+ bytes, \d+ expected",
    ),
    (
        "multipliers",
        _options(1, CONV_HEADER + 60, struct.pack("<i", (1 << 31) - 1)),
        r"constants block of \d+ bytes, \d+ expected",
    ),
    ("left shift", _options(1, CONV_HEADER + 56, struct.pack("<i", 32)), "left_shift is 32"),
    # shapes and quantization of tensors
    ("shape", _tensor(3, shape=(1, 1)), "operator 1: tensor .* of shape .* expected"),
    ("output batch", _tensor(4, shape=lambda s: (2, *s[1:])), "batch 1 expected"),
    ("output shape", _tensor(4, shape=(1, 5)), "output_shape: shape"),
    ("input batch", _tensor(0, shape=lambda s: (2, *s[1:])), "an activation of batch 1"),
    ("input shape", _tensor(0, shape=(1, 7)), "does not fit tensor 'input'"),
    ("input without scale", _tensor(0, quantization=None), "with a scale and a zero point"),
    ("output without scale", _tensor(4, quantization=None), "None, but the operator has"),
    (
        "input scale",
        _tensor(0, quantization=tflite.Quantization(float("nan"), 0)),
        "scale nan is not a positive finite",
    ),
    (
        "input zero point",
        _tensor(0, quantization=tflite.Quantization(1.0, -1)),
        r"zero_point -1 is not in \[0, 255\]",
    ),
    ("output scale", _tensor(4, quantization=tflite.Quantization(1.0, 3)), "but the operator has"),
    ("names", _tensor(1, name="input"), "tensor 1, 'input', is defined twice"),
    ("no name", _tensor(1, name=""), "is filed under the name ''"),
    # memory plan
    ("no plan", lambda f: replace(f, metadata={}), f"no metadata '{ARENA_METADATA}'"),
    ("short plan", _plan(lambda n: n[:2]), "of 8 bytes does not list 5 tensors"),
    ("plan of fewer", _plan(lambda n: n[:-1]), "does not list 5 tensors"),
    ("unaligned", _plan(lambda n: [*n[:3], 8, *n[4:]]), "tensor 'input' at offset 8"),
    ("negative", _plan(lambda n: [*n[:3], -16, *n[4:]]), "tensor 'input' at offset -16"),
    ("constant placed", _plan(lambda n: [*n[:5], 0, *n[6:]]), "tensor 'conv2d_1' at offset 0"),
]


@pytest.mark.parametrize("change, message", [pytest.param(*c[1:], id=c[0]) for c in BAD_FILES])
def test_bad_files(change, message, tmp_path):
    file = change(_described(model_of(Kernel.CONV2D, seed=1)))
    path = tmp_path / "bad.tflite"
    path.write_bytes(tflite.write(file))
    with pytest.raises(FormatError, match=message) as error:
        load_network(path)
    assert str(error.value).startswith(f"{path}: ")


def test_the_model_of_these_tests():
    file = _described(model_of(Kernel.CONV2D, seed=1))
    codes = [op.custom_code.split("_")[1] for op in file.operators]
    assert codes == ["REQUANTIZE", "CONV2D", "REQUANTIZE"]
    assert [t.data is not None for t in file.tensors] == [False, False, True, False, False]


def test_unused_bits_must_be_zero():
    def last_weights_byte(model: IntegerNetwork) -> int | None:
        w = next(node.weights for node in model.nodes if node.weights is not None)
        if w.values.size * w.bits % 8 == 0:
            return None
        return -len(w.zero_point) - 1

    model, at = next(
        (model, at)
        for model in (model_of(Kernel.CONV2D, seed) for seed in range(100))
        if (at := last_weights_byte(model)) is not None
    )
    file = _described(model)
    index = next(i for i, tensor in enumerate(file.tensors) if tensor.data is not None)
    data = bytearray(file.tensors[index].data)
    data[at] |= 0x80
    with pytest.raises(TfmixError, match="unused bits of the packed weights are not zero"):
        deserialize(tflite.write(_tensor(index, data=bytes(data))(file)))


# -- damaged bytes --------------------------------------------------------------------------------

NASTY = (0, 1, 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _mutant(files: list[bytes], rng: np.random.Generator) -> bytes:
    file = bytearray(files[rng.integers(len(files))])
    kind = rng.integers(4)
    if kind == 0:  # flips
        for _ in range(rng.integers(1, 8)):
            file[rng.integers(len(file))] = rng.integers(256)
    elif kind == 1:  # truncation
        del file[rng.integers(len(file)) :]
    elif kind == 2:  # splice
        other = files[rng.integers(len(files))]
        file[rng.integers(len(file)) :] = other[rng.integers(len(other)) :]
    else:  # a word that an offset or a length should not be
        at = 4 * int(rng.integers(len(file) // 4))
        file[at : at + 4] = int(rng.choice(NASTY)).to_bytes(4, "little")
    return bytes(file)


def test_mutated_files_load_or_raise_format_error(tmp_path: Path):
    rng = np.random.default_rng(0)
    files = [serialize(random_model(seed)) for seed in range(10)]
    path = tmp_path / "mutant.tflite"
    refused = 0
    for _ in range(1_000):
        path.write_bytes(_mutant(files, rng))
        try:
            load_network(path)
        except FormatError:
            refused += 1
    assert refused > 700


def test_every_truncation_is_refused():
    data = serialize(model_of(Kernel.FULLY_CONNECTED))
    padding = tflite.BUFFER_ALIGNMENT  # at the end of the file
    for size in range(0, len(data) - padding, 7):
        with pytest.raises(TfmixError):
            deserialize(data[:size])


def test_vectors_that_share_their_bytes_do_not_multiply_them():
    """A million tensors may point at one long name: refused before it is copied so often."""
    model = model_of(Kernel.ADD)
    file = _described(model)
    copies = tuple(replace(file.tensors[1], name="x" * 100_000) for _ in range(5_000))
    data = tflite.write(replace(file, tensors=file.tensors + copies))
    assert len(data) < 1_000_000  # equal names are written once
    start = time.perf_counter()
    with pytest.raises(TfmixError, match="damaged or truncated flatbuffer"):
        deserialize(data)
    assert time.perf_counter() - start < 2
