"""Writing: the file is a valid TFLite file of the documented layout, and no larger than needed."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden_cases import GOLDEN_PATH, Case, cases
from integer_models import ModelBuilder, model_of, random_model

from tfmix.errors import TfmixError
from tfmix.export import tflite
from tfmix.export.flatbuffer import ARENA_METADATA, export_network, file_size, serialize
from tfmix.export.options import Header, op_name, parse_op_name, unpack
from tfmix.export.shapes import packed_shape, shape_of_view
from tfmix.integer import abi
from tfmix.integer.lower import lower
from tfmix.integer.model import IntegerNetwork, IntegerTensor, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.ir.quant import QuantParams, packed_size
from tfmix.policy.cost.arena import ArenaPlan, plan, verify

SEEDS = range(12)
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


# -- the documented bytes -----------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("options"), ids=str)
def test_golden_options(case: Case):
    rank, scale = int(case.section("rank")[0]), float(case.section("scale")[0])
    plane = tuple(case.ints("plane")) if "plane" in case.words else None
    kernel, *values = case.words[case.words.index("params") + 1 :]
    name = b""
    if "name" in values:
        *values, _, text = values
        name = text.encode()
    params = bytes(abi.PARAMS[Kernel(kernel)](*map(int, values)))
    header = Header(rank, scale, plane)
    assert header.pack() + params + name == case.data
    assert unpack(case.data) == (header, params + name)


def test_the_page_shows_every_golden_line():
    page = {line.strip() for line in FORMAT.read_text().splitlines()}
    lines = [line for line in GOLDEN_PATH.read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if line not in page] == []


@pytest.mark.parametrize("kernel", Kernel)
def test_the_page_lists_the_fields_of_every_struct(kernel):
    section = next(
        part
        for part in re.split(r"^### ", FORMAT.read_text(), flags=re.MULTILINE)[1:]
        if kernel.value in part.splitlines()[0].split(", ")
    )
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", section, flags=re.MULTILINE)
    structs = [abi.PARAMS[kernel]]
    structs += [abi.ConcatenateInput] if kernel is Kernel.CONCATENATE else []
    assert rows == [
        (str(getattr(struct, name).offset), name)
        for struct in structs
        for name, *_ in struct._fields_
    ]


def test_op_names():
    for variant in abi.all_variants():
        assert parse_op_name(op_name(variant)) == variant
    assert op_name("conv2d_a8w4o2_pc") == "TFMIX_CONV2D_A8W4O2_PC"


# -- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, bits, expected",
    [
        ((5, 7, 3), 8, (1, 5, 7, 3)),
        ((5, 7, 8), 4, (1, 5, 7, 4)),
        ((5, 7, 8), 2, (1, 5, 7, 2)),
        ((5, 7, 6), 4, (1, 5, 7, 3)),
        ((5, 7, 6), 2, (1, 53)),
        ((5, 7, 3), 4, (1, 53)),
        ((10,), 2, (1, 3)),
    ],
)
def test_packed_shape(shape, bits, expected):
    assert packed_shape(shape, bits) == expected
    assert np.prod(expected) == packed_size(int(np.prod(shape)), bits)


def test_shape_of_view():
    assert [shape_of_view((2, 3, 4), rank) for rank in (1, 2, 3)] == [(24,), (6, 4), (2, 3, 4)]
    with pytest.raises(TfmixError, match="4 dimensions, 1 to 3 expected"):
        shape_of_view((2, 3, 4), 4)


# -- the file -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_tensors_operators_and_constants(seed):
    model = random_model(seed)
    file = tflite.read(serialize(model))
    assert len(file.operators) == len(model.nodes)
    for node, operator in zip(model.nodes, file.operators, strict=True):
        call = lower(node, model.tensors)
        assert operator.custom_code == op_name(call.variant)
        *inputs, last = (file.tensors[i] for i in operator.inputs)
        if call.constants:
            assert (last.name, last.data) == (node.name, call.constants)
            assert last.shape == (len(call.constants),)
        else:
            inputs.append(last)
        assert tuple(tensor.name for tensor in inputs) == node.inputs
        (output,) = (file.tensors[i] for i in operator.outputs)
        assert output.name == node.output and output.data is None
        assert call.params in operator.options
    for tensor in file.tensors:
        assert tensor.type == tflite.UINT8
        if tensor.data is None:
            stored = model.tensors[tensor.name]
            elements = int(np.prod(stored.shape))
            assert np.prod(tensor.shape) == packed_size(elements, stored.quant.bits)
            is_end = tensor.name in (model.input, model.output)
            assert (tensor.quantization is not None) == is_end


@pytest.mark.parametrize("seed", SEEDS)
def test_memory_plan(seed):
    model = random_model(seed)
    file = tflite.read(serialize(model))
    version, subgraphs, count, *offsets = np.frombuffer(file.metadata[ARENA_METADATA], "<i4")
    assert (version, subgraphs, count) == (1, 1, len(file.tensors)) and count == len(offsets)
    places = {}
    for tensor, offset in zip(file.tensors, offsets, strict=True):
        if tensor.data is not None:
            assert offset == -1
        else:
            places[tensor.name] = int(offset)
    steps = schedule_of(model)
    planned = plan(steps)
    verify(steps, ArenaPlan(places, planned.scratch_offsets, planned.total))


@pytest.mark.parametrize("seed", SEEDS)
def test_buffers_are_aligned_and_side_by_side(seed):
    data = serialize(random_model(seed))
    schema = tflite.schema
    root = schema.Model.GetRootAs(data, 0)
    spans = []
    for i in range(root.BuffersLength()):
        content = root.Buffers(i).DataAsNumpy()
        if isinstance(content, np.ndarray):
            start = content.ctypes.data - np.frombuffer(data, np.uint8).ctypes.data
            assert start % tflite.BUFFER_ALIGNMENT == 0
            spans.append((start, start + content.size))
    assert i + 1 == len(spans) + 1  # all but buffer 0 hold data
    spans.sort()
    # Four bytes of length lie between two buffers, and no more padding than alignment asks for.
    ends = [end for _, end in spans]
    starts = [start - 4 for start, _ in spans[1:]] + [len(data)]
    for end, start in zip(ends, starts, strict=True):
        assert 0 <= start - end < tflite.BUFFER_ALIGNMENT


@pytest.mark.parametrize("seed", SEEDS)
def test_file_size_is_exact(seed):
    model = random_model(seed, nodes=10)
    assert file_size(model) == len(serialize(model))


def test_serialize_is_deterministic():
    model = random_model(3)
    assert serialize(model) == serialize(model)


def test_overhead_per_operator():
    """What a layer costs beside its constants; the measure is a chain of 16 convolutions."""

    def overhead(layers: int) -> int:
        builder = ModelBuilder(np.random.default_rng(0), (64, 64, 4))
        while len(builder.nodes) < layers:
            builder._conv2d(builder.last, builder.view(builder.last))
        model = builder.finish()
        constants = sum(len(lower(n, model.tensors).constants) for n in model.nodes)
        return len(serialize(model)) - constants

    assert (overhead(24) - overhead(8)) / 16 < 310


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensorflow_reads_it():
    import tensorflow as tf

    model = random_model(3, nodes=8)
    interpreter = tf.lite.Interpreter(model_content=serialize(model))
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    assert names == [op_name(lower(n, model.tensors).variant) for n in model.nodes]
    for details, name, shape in (
        (interpreter.get_input_details(), model.input, model.input_shape),
        (interpreter.get_output_details(), model.output, model.output_shape),
    ):
        (tensor,) = details
        quant = model.tensors[name].quant
        assert tensor["name"] == name and tensor["dtype"] == np.uint8
        assert tuple(tensor["shape"]) == (1, *shape)
        assert tensor["quantization"] == (quant.scale, quant.zero_point)
    with pytest.raises(RuntimeError, match=f"unresolved custom op: {names[0]}"):
        interpreter.allocate_tensors()


# -- what cannot be written ---------------------------------------------------------------------


def _with_tensor(model: IntegerNetwork, name: str, **fields: object) -> IntegerNetwork:
    tensor = replace(model.tensors[name], **fields)
    return replace(model, tensors={**model.tensors, name: tensor})


def test_scales_must_be_float32():
    model = model_of(Kernel.ADD)
    name, bits = model.nodes[0].output, model.tensors[model.nodes[0].output].quant.bits
    model = _with_tensor(model, name, quant=QuantParams(0.1, 0, bits))
    with pytest.raises(TfmixError, match=f"'{name}': scale 0.1 is not a float32"):
        serialize(model)


def test_input_and_output_have_8_bits():
    model = model_of(Kernel.ADD)
    for name in (model.input, model.output):
        bad = _with_tensor(model, name, quant=QuantParams(1.0, 0, 4))
        with pytest.raises(TfmixError, match=f"'{name}' has 4 bits; input and output have 8"):
            serialize(bad)


def test_input_shape_is_that_of_its_tensor():
    model = random_model(1)
    bad = replace(model, input_shape=(int(np.prod(model.input_shape)),))
    with pytest.raises(TfmixError, match="input tensor 'input' has shape"):
        serialize(bad)


def test_output_shapes_follow_from_the_view():
    model = random_model(2)
    node = next(n for n in model.nodes if n.output_shape[1] > 1 and n.output_shape[0] > 1)
    rows, columns, channels = node.output_shape
    bad = _with_tensor(model, node.output, shape=(1, rows, columns, channels))
    with pytest.raises(TfmixError, match=f"'{node.output}': a tensor of 4 dimensions"):
        serialize(bad)
    bad = _with_tensor(model, node.output, shape=(channels, columns, rows))
    if node.output_shape != (channels, columns, rows):
        with pytest.raises(TfmixError, match=f"'{node.output}' has shape"):
            serialize(bad)


def test_invalid_models_are_not_written(tmp_path):
    model = replace(random_model(1), nodes=())
    with pytest.raises(TfmixError, match="no nodes"):
        export_network(model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


# -- the file system ----------------------------------------------------------------------------


def test_export_replaces_an_older_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_text("older")
    model = random_model(4)
    assert export_network(model, path) == path
    assert path.read_bytes() == serialize(model)
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_missing_directory(tmp_path):
    with pytest.raises(TfmixError, match="there is no directory .*nowhere"):
        export_network(random_model(4), tmp_path / "nowhere" / "model.tflite")


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_text("older")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(TfmixError, match="cannot write .*model.tflite: No space left on device"):
        export_network(random_model(4), path)
    assert path.read_text() == "older" and os.listdir(tmp_path) == ["model.tflite"]


def test_tensor_names_may_hold_any_text():
    model = random_model(5)
    old, new = model.output, "Ausgäbe/出力"
    tensors = {**model.tensors, new: replace(model.tensors[old], name=new)}
    del tensors[old]
    nodes = tuple(replace(n, output=new) if n.output == old else n for n in model.nodes)
    file = tflite.read(serialize(replace(model, output=new, tensors=tensors, nodes=nodes)))
    assert new in {tensor.name for tensor in file.tensors}
    assert isinstance(tensors[new], IntegerTensor)
