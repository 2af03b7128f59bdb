"""check_model: accepts every valid model, and names what is wrong with the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from integer_models import model_of, random_model

from tfmix.errors import TfmixError
from tfmix.integer.model import IntegerNetwork, IntegerTensor, Kernel, Rescale
from tfmix.integer.validate import check_model
from tfmix.ir.graph import Window
from tfmix.ir.quant import QuantParams


@pytest.mark.parametrize("seed", range(30))
def test_valid_models_pass(seed):
    check_model(random_model(seed))


def _with_node(kernel: Kernel, **fields) -> IntegerNetwork:
    """model_of(kernel) with fields of that node replaced; a callable is given the old value."""
    model = model_of(kernel)
    nodes = list(model.nodes)
    index = next(i for i, node in enumerate(nodes) if node.kernel is kernel)
    node = nodes[index]
    new = {k: v(getattr(node, k)) if callable(v) else v for k, v in fields.items()}
    nodes[index] = replace(node, **new)
    return replace(model, nodes=tuple(nodes))


def _array(field: str, change) -> dict:
    return {"weights": lambda w: replace(w, **{field: change(getattr(w, field))})}


BAD_NODES = [
    (Kernel.CONV2D, {"window": None}, "conv2d with window False, True expected"),
    (Kernel.CONV2D, {"weights": None}, "conv2d with weights False, True expected"),
    (Kernel.CONV2D, {"rescales": (Rescale(1, 0),)}, "rescales 1, 0 expected"),
    (Kernel.CONV2D, {"inputs": lambda x: x * 2}, "inputs 2, 1 expected"),
    (Kernel.CONV2D, {"output_shape": (99, 1, 1)}, r"shape \(99, 1, 1\) does not fit tensor"),
    (Kernel.CONV2D, {"window": lambda w: replace(w, strides=(0, 1))}, "stride is 0, "),
    (Kernel.CONV2D, {"window": lambda w: replace(w, padding=(9, 0, 0, 0))}, "padding is 9, "),
    (
        Kernel.CONV2D,
        {"window": lambda w: replace(w, padding=(*w.padding[:3], w.padding[3] + 9))},
        "output size",
    ),
    (Kernel.CONV2D, _array("values", lambda v: v.astype(np.int8)), "weights dtype int8, uint8"),
    (Kernel.CONV2D, _array("values", lambda v: v[..., :0]), "weights shape"),
    (Kernel.CONV2D, _array("bias", lambda v: v[1:]), "bias shape"),
    (Kernel.CONV2D, _array("zero_point", lambda v: np.zeros(77, np.uint8)), "zero point shape"),
    (Kernel.CONV2D, _array("multiplier", lambda v: np.zeros(77, np.int32)), "multiplier shape"),
    (Kernel.CONV2D, _array("left_shift", lambda v: 32), r"left_shift is 32, \[0, 31\] expected"),
    (Kernel.FULLY_CONNECTED, _array("values", lambda v: v.T), "weights shape"),
    (Kernel.ADD, {"add": lambda a: replace(a, shift=0)}, r"shift is 0, \[1, 31\] expected"),
    (Kernel.ADD, {"add": lambda a: replace(a, offset=1 << 31)}, "offset is 2147483648"),
    (Kernel.MULTIPLY, {"rescales": ()}, "rescales 0, 1 expected"),
    (Kernel.MULTIPLY, {"rescales": (Rescale(0, 0),)}, "multiplier is 0, "),
    (Kernel.MULTIPLY, {"rescales": (Rescale(1, 31),)}, "largest product is "),
    (Kernel.MULTIPLY, {"output_shape": lambda s: (s[1] * s[2], s[0], 1)}, "first input"),
    (Kernel.CONCATENATE, {"rescales": ()}, "rescales 0, "),
    (Kernel.REQUANTIZE, {"rescales": (Rescale(1 << 31, 0),)}, "multiplier is 2147483648"),
    (Kernel.REQUANTIZE, {"rescales": (Rescale(1, -1),)}, "left_shift is -1"),
    (Kernel.AVERAGE_POOL, {"rescales": (Rescale(0, 0),)}, "multiplier is 0, "),
    (Kernel.MAX_POOL, {"window": Window((1, 1), (1, 1), (0, 0, -1, 0))}, "padding is -1"),
    (Kernel.PAD, {"padding": (-1, 1, 0, 0)}, "padding is -1"),
    (Kernel.PAD, {"padding": (9, 9, 9, 9)}, "output shape"),
    (Kernel.LOOKUP, {"table": None}, "lookup with table False, True expected"),
    (Kernel.LOOKUP, {"table": np.zeros(255, np.uint8)}, r"table shape \(255,\), "),
    (Kernel.LOOKUP, {"table": lambda t: t.astype(np.uint16)}, "table dtype uint16, uint8"),
    (Kernel.SOFTMAX, {"table": np.zeros(257, np.uint16)}, "table size is 257"),
    (Kernel.SOFTMAX, {"table": np.zeros(2, np.uint16)}, r"table\[0\] is 0"),
    (Kernel.SOFTMAX, {"table": np.ones(2, np.int32)}, "table dtype int32, uint16"),
    (Kernel.ADD, {"name": ""}, "has no name"),
]


@pytest.mark.parametrize("kernel, fields, message", BAD_NODES)
def test_bad_nodes(kernel, fields, message):
    with pytest.raises(TfmixError, match=message):
        check_model(_with_node(kernel, **fields))


def test_padding_that_no_window_reaches_is_not_canonical():
    model = _with_node(Kernel.MAX_POOL)
    node = next(n for n in model.nodes if n.kernel is Kernel.MAX_POOL)
    rows, columns, channels = node.input_shapes[0]
    window = Window((rows, columns), (9, 9), (0, 1, 0, 0))
    tensors = dict(model.tensors)
    tensors[node.output] = replace(tensors[node.output], shape=(1, 1, channels))
    bad = replace(node, window=window, output_shape=(1, 1, channels))
    nodes = tuple(bad if n is node else n for n in model.nodes if n.inputs != (node.output,))
    del tensors[model.output]
    bad_model = replace(
        model, nodes=nodes, tensors=tensors, output=node.output, output_shape=(channels,)
    )
    with pytest.raises(TfmixError, match="window Window"):
        check_model(bad_model)


def test_a_factor_is_of_one_pixel_or_of_all():
    model = model_of(Kernel.MULTIPLY)
    node = next(n for n in model.nodes if n.kernel is Kernel.MULTIPLY)
    rows, columns, channels = node.output_shape
    shape = (rows, 1, channels * columns) if columns > 1 else (1, rows, channels)
    bad = replace(node, inputs=node.inputs[:1] * 2, input_shapes=(node.output_shape, shape))
    nodes = tuple(bad if n is node else n for n in model.nodes)
    with pytest.raises(TfmixError, match="shape of the second input"):
        check_model(replace(model, nodes=nodes))


def test_a_table_within_the_bits_of_the_output():
    model = model_of(Kernel.LOOKUP)
    node = next(n for n in model.nodes if n.kernel is Kernel.LOOKUP)
    quant = replace(model.tensors[node.output].quant, bits=2, zero_point=0)
    tensors = {**model.tensors, node.output: replace(model.tensors[node.output], quant=quant)}
    node.table[:] = 3
    check_model(replace(model, tensors=tensors))
    node.table[1] = 4
    with pytest.raises(TfmixError, match=r"table entry is 4, \[0, 3\] expected"):
        check_model(replace(model, tensors=tensors))


def test_softmax_has_its_own_scale():
    model = model_of(Kernel.SOFTMAX)
    name = next(node.output for node in model.nodes if node.kernel is Kernel.SOFTMAX)
    tensors = {**model.tensors, name: replace(model.tensors[name], quant=QuantParams(0.5, 0, 8))}
    with pytest.raises(TfmixError, match="output quantization .*scale=0.5"):
        check_model(replace(model, tensors=tensors))


def test_weights_beyond_their_bits():
    model = model_of(Kernel.FULLY_CONNECTED)
    node = next(n for n in model.nodes if n.kernel is Kernel.FULLY_CONNECTED)
    node.weights.values[0, 0] = 255
    low = replace(node, weights=replace(node.weights, bits=2))
    nodes = tuple(low if n is node else n for n in model.nodes)
    with pytest.raises(TfmixError, match=r"weight is 255, \[0, 3\] expected"):
        check_model(replace(model, nodes=nodes))


# -- the model as a whole -----------------------------------------------------------------------


def test_no_nodes():
    model = model_of(Kernel.ADD)
    with pytest.raises(TfmixError, match="no nodes"):
        check_model(replace(model, nodes=()))


def test_nodes_out_of_order():
    model = random_model(1)
    with pytest.raises(TfmixError, match="before it is written"):
        check_model(replace(model, nodes=model.nodes[::-1]))


def test_a_tensor_written_twice():
    model = random_model(1)
    with pytest.raises(TfmixError, match="already defined"):
        check_model(replace(model, nodes=(*model.nodes, model.nodes[-1])))


def test_tensors_without_use():
    model = random_model(1)
    extra = IntegerTensor("extra", (1,), QuantParams(1.0, 0, 8))
    with pytest.raises(TfmixError, match="without a use or a definition: {'extra'}"):
        check_model(replace(model, tensors={**model.tensors, "extra": extra}))


@pytest.mark.parametrize("shape", [(), (0, 3), (1 << 16, 1 << 16)])
def test_bad_tensor_shapes(shape):
    model = random_model(1)
    name = model.nodes[0].output
    tensors = {**model.tensors, name: replace(model.tensors[name], shape=shape)}
    with pytest.raises(TfmixError, match="dimensions of at least 1 and up to 1073741824"):
        check_model(replace(model, tensors=tensors))


def test_output_must_be_written():
    model = random_model(1)
    with pytest.raises(TfmixError, match="is written by no node"):
        check_model(replace(model, output=model.input))


def test_keras_shapes_have_as_many_elements():
    model = random_model(1)
    with pytest.raises(TfmixError, match="output_shape: shape"):
        check_model(replace(model, output_shape=(12345,)))
