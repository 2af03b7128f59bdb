"""Exported files in the TensorFlow Lite interpreters of TensorFlow and, if installed, of LiteRT."""

from __future__ import annotations

import os
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integer_models import model_of, random_model
from random_chains import random_chain

import tfmix
from tfmix.errors import FormatError, TfmixError
from tfmix.export import tflite
from tfmix.export.flatbuffer import describe, serialize
from tfmix.integer import runtime
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.packing import pack
from tfmix.integer.runtime import CRuntime
from tfmix.integer.schedule import schedule_of
from tfmix.ir.graph import as_graph
from tfmix.policy.cost.arena import plan

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TFMIX_DATA", ROOT.parent / "shared" / "data"))
MODELS = ("ad01", "kws_ref_model", "resnet8_cifar10_jpeg_ft", "str_ww_ref_model", "vww_96")
BITS, BITS_IDS = [(8,), (4,), (2,), (4, 2, 8)], ["8", "4", "2", "mixed"]

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")

Interpreter = Callable[..., Any]


def _tensorflow() -> tuple[Any, Any]:
    import tensorflow as tf

    return tf.lite.Interpreter, tf.lite.experimental.load_delegate


def _litert() -> tuple[Any, Any]:
    module = pytest.importorskip("ai_edge_litert.interpreter", reason="no ai-edge-litert")
    return module.Interpreter, module.load_delegate


@pytest.fixture(params=[_tensorflow, _litert], ids=["tensorflow", "litert"])
def interpreter(request) -> Interpreter:
    """Content of a file -> an interpreter with the delegate, every tensor kept."""
    make, load_delegate = request.param()

    def interpret(content: bytes) -> Any:
        delegates = [load_delegate(tfmix.delegate_path())]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the interpreter warns of keeping every tensor
            result = make(
                model_content=content,
                experimental_delegates=delegates,
                experimental_preserve_all_tensors=True,
            )
        result.allocate_tensors()
        return result

    return interpret


def _random_inputs(network: IntegerNetwork, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *network.input_shape), np.uint8)


def _run(interpreter: Any, image: np.ndarray) -> np.ndarray:
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], image.reshape(source["shape"]))
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])


def _assert_equal(network: IntegerNetwork, interpreter: Interpreter) -> None:
    """The output, and every other activation, are those of the C runtime."""
    content = serialize(network)
    file, running, ours = tflite.read(content), interpreter(content), CRuntime(network)
    inputs = _random_inputs(network)
    expected = ours.tensors(inputs)
    for i, image in enumerate(inputs):
        output = _run(running, image)
        assert output.dtype == np.uint8
        assert np.array_equal(output.reshape(network.output_shape), ours.run(inputs[i : i + 1])[0])
        for index, tensor in enumerate(file.tensors):
            if tensor.data is not None:
                continue
            bits = network.tensors[tensor.name].quant.bits
            found = running.get_tensor(index)
            assert np.array_equal(found.ravel(), pack(expected[tensor.name][i], bits)), tensor.name


# -- equal to the C runtime -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed, interpreter):
    _assert_equal(random_model(seed, nodes=8), interpreter)


@pytest.mark.parametrize("seed", range(8))
def test_random_chains(seed, interpreter):
    _assert_equal(random_chain(seed), interpreter)


@pytest.mark.parametrize("kernel", Kernel)
@pytest.mark.parametrize("seed", range(5))
def test_every_kernel(kernel, seed, interpreter):
    _assert_equal(model_of(kernel, seed), interpreter)


def test_every_operator_of_a_file_is_replaced_by_itself(interpreter):
    network = random_model(0, nodes=8)
    content = serialize(network)
    found = interpreter(content)._get_ops_details()
    for operator in tflite.read(content).operators:
        outputs = [tuple(op["outputs"]) for op in found if op["op_name"] == operator.custom_code]
        assert operator.outputs in outputs


def test_the_digits_network(interpreter):
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import digits
    finally:
        sys.path.pop(0)
    model = digits.build_model()
    x = np.random.default_rng(0).uniform(0, 1, (16, 16, 16, 1)).astype(np.float32)
    qmodel = tfmix.quantize_model(model, digits.BUDGET, calibration_data=x, verbose=0)
    _assert_equal(tfmix.convert(qmodel).network, interpreter)


@cache
def _quantized(name: str) -> Any:
    import tf_keras

    if name == "mobilenet":
        model = tf_keras.applications.MobileNet((128, 128, 3), alpha=0.25, weights=None)
    else:
        model = tf_keras.models.load_model(DATA / "models" / f"{name}.h5", compile=False)
    x = np.random.default_rng(0).uniform(0, 1, (4, *model.input_shape[1:])).astype(np.float32)
    return tfmix.quantize_model(model, None, calibration_data=x, verbose=0)


def _policy(qmodel: Any, bits: tuple[int, ...]) -> tfmix.QuantizationPolicy:
    """`bits` in turn, layer by layer; input and logits stay at 8."""
    graph = as_graph(qmodel)
    free = [tensor for tensor in graph.quantized_tensors if tensor not in graph.fixed_tensors]
    uniform = tfmix.QuantizationPolicy.uniform(qmodel, 8)
    return tfmix.QuantizationPolicy(
        {node.name: bits[i % len(bits)] for i, node in enumerate(graph.weighted_nodes)},
        {
            **uniform.activation_bits,
            **{name: bits[(i + 1) % len(bits)] for i, name in enumerate(free)},
        },
    )


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}; set TFMIX_DATA")
@pytest.mark.parametrize("bits", BITS, ids=BITS_IDS)
@pytest.mark.parametrize("name", MODELS)
def test_models_of_mlperf_tiny(name, bits, interpreter):
    _check_at(bits, name, interpreter)


@pytest.mark.parametrize("bits", BITS, ids=BITS_IDS)
def test_mobilenet(bits, interpreter):
    _check_at(bits, "mobilenet", interpreter)


def _check_at(bits: tuple[int, ...], name: str, interpreter: Interpreter) -> None:
    qmodel = _quantized(name)
    tfmix.set_policy(qmodel, _policy(qmodel, bits))
    _assert_equal(tfmix.convert(qmodel).network, interpreter)


# -- the convenience ------------------------------------------------------------------------------


def test_interpreter(tmp_path):
    network = random_model(0)
    path = tfmix.export(tfmix.IntegerModel(network), tmp_path / "model.tflite")
    image = _random_inputs(network, 1)
    output = _run(tfmix.interpreter(path), image)
    assert np.array_equal(output.ravel(), CRuntime(network).run(image).ravel())
    assert tfmix.interpreter(path, num_threads=2) is not None


def test_interpreter_of_another_file(tmp_path):
    path = tmp_path / "other.tflite"
    path.write_bytes(b"something else")
    with pytest.raises(FormatError, match="other.tflite: not a TFLite file"):
        tfmix.interpreter(path)


def test_delegate_path_without_a_build(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "_LIBRARY", tmp_path / "_kernels.so")
    with pytest.raises(TfmixError, match="the kernels are not built: _kernels.so is missing"):
        tfmix.delegate_path()


# -- files that are not right ---------------------------------------------------------------------

Change = Callable[[tflite.TfliteModel], tflite.TfliteModel]
HEADER, CONV_HEADER = 20, 12
HUGE = struct.pack("<i", (1 << 30) - 1)


def _operator(position: int, **fields: Any) -> Change:
    """Replaces fields of an operator; a callable is given the old value."""

    def change(file: tflite.TfliteModel) -> tflite.TfliteModel:
        operators = list(file.operators)
        old = operators[position]
        new = {k: v(getattr(old, k)) if callable(v) else v for k, v in fields.items()}
        operators[position] = replace(old, **new)
        return replace(file, operators=tuple(operators))

    return change


def _options(position: int, offset: int, data: bytes) -> Change:
    return _operator(position, options=lambda old: old[:offset] + data + old[offset + len(data) :])


def _tensor(index: int, **fields: Any) -> Change:
    def change(file: tflite.TfliteModel) -> tflite.TfliteModel:
        tensors = list(file.tensors)
        tensors[index] = replace(tensors[index], **fields)
        return replace(file, tensors=tuple(tensors))

    return change


# Operator 0, a requantize, reads tensor 0 and writes tensor 1; operator 1, a conv2d, has its
# constants in tensor 2 and writes tensor 3; operator 2 requantizes to tensor 4, the output.
BAD_FILES: list[tuple[str, Change, str]] = [
    ("unknown op", _operator(1, custom_code="TFMIX_GELU_A8O8"), "no operator TFMIX_GELU_A8O8: up"),
    ("magic", _options(0, 0, b"TFMY"), "custom options are not those of tfmix"),
    ("no options", _operator(0, options=b""), "custom options are not those of tfmix"),
    ("newer version", _options(2, 4, b"\xff\0"), "a newer format: update tfmix"),
    ("version 0", _options(0, 4, b"\0\0"), "header of the custom options is damaged"),
    ("header size", _options(0, 6, b"\xff"), "header of the custom options is damaged"),
    ("header alone", _operator(0, options=lambda o: o[:12]), "the custom options are cut off"),
    ("options cut", _operator(0, options=lambda o: o[:-1]), "the custom options are cut off"),
    ("elements", _options(0, HEADER, HUGE), r"bytes of TFLite type 3, \d+ bytes of type 3"),
    ("no elements", _options(0, HEADER, bytes(4)), "a size is not positive"),
    ("stride 0", _options(1, CONV_HEADER + 32, bytes(4)), "a size is not positive"),
    ("channels", _options(1, CONV_HEADER + 8, HUGE), "a tensor, a buffer or an accumulator is too"),
    ("multipliers", _options(1, CONV_HEADER + 60, HUGE), "a multiplier, the number of multipl"),
    ("zero point", _options(1, CONV_HEADER + 52, HUGE), "a zero point is outside the range"),
    ("other bits", _operator(1, custom_code="TFMIX_CONV2D_A2W2O2_PC"), "tfmix: TFMIX_CONV2D_A2"),
    ("inputs", _operator(1, inputs=(1,)), "another number of inputs"),
    ("no inputs", _operator(0, inputs=()), "another number of inputs"),
    ("own input", _operator(0, outputs=(0,)), "writes tensor 0, which is in use already"),
    ("written twice", _operator(2, outputs=(3,)), "writes tensor 3, which is in use already"),
    (
        "out of order",
        lambda f: replace(f, operators=f.operators[::-1]),
        "writes tensor 3, which is in use already",
    ),
    ("writes a constant", _operator(2, outputs=(2,)), "writes tensor 2, which is in use already"),
    ("shape", _tensor(3, shape=(1, 1)), "tensor 3, '.*', has 1 bytes of TFLite type 3"),
    ("type", _tensor(3, type=9), "of TFLite type 9, "),
    (
        "constants",
        _tensor(2, data=b"\x01" * 7, shape=(7,)),
        r"tensor 2, 'conv2d_1', has 7 bytes of TFLite type 3, \d+ bytes of type 3 \(uint8\) exp",
    ),
]


def _bad(change: Change) -> bytes:
    network = model_of(Kernel.CONV2D, seed=1)
    return tflite.write(change(describe(network, plan(schedule_of(network)).offsets)))


@pytest.mark.parametrize("change, message", [pytest.param(*c[1:], id=c[0]) for c in BAD_FILES])
def test_bad_files(change, message, interpreter):
    with pytest.raises(RuntimeError, match=message):
        interpreter(_bad(change))


def test_a_batch_of_two(interpreter):
    running = interpreter(serialize(random_model(0)))
    (source,) = running.get_input_details()
    running.resize_tensor_input(source["index"], [2, *source["shape"][1:]])
    with pytest.raises(RuntimeError, match=r"tfmix: .* 'input', has \d+ bytes"):
        running.allocate_tensors()


@pytest.mark.parametrize("runtime_of", [_tensorflow, _litert], ids=["tensorflow", "litert"])
def test_options(runtime_of):
    _, load_delegate = runtime_of()
    with pytest.raises(ValueError, match="the delegate has no options"):
        load_delegate(tfmix.delegate_path(), {"threads": "2"})


def test_files_of_others_run_as_ever(interpreter):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])
    def function(x):
        return tf.nn.relu(x + 1.0)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    output = _run(interpreter(converter.convert()), np.float32([-3, -1, 0, 1]))
    assert output.tolist() == [[0, 0, 1, 2]]
