"""Chains of layers in the file: written and read back, as documented, and refused when damaged."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_chains import random_chain

from tfmix.errors import FormatError, TfmixError
from tfmix.export import tflite
from tfmix.export.flatbuffer import ARENA_METADATA, file_size, serialize
from tfmix.export.load import deserialize
from tfmix.export.op_resolver import operators_of, resolver_source, stream_kernels_of
from tfmix.export.options import op_name
from tfmix.export.streams import STREAM
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.stream import StreamLayer, lower_chain

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
SEEDS = range(40)
RECORDS, RECORD = 24, 108


@pytest.mark.parametrize("seed", SEEDS)
def test_round_trip(seed):
    model = random_chain(seed)
    content = serialize(model)
    assert deserialize(content) == model
    assert len(content) == file_size(model)


def damageable() -> IntegerNetwork:
    """A chain of convolutions and adds, some of whose inner tensors keep several rows."""
    for seed in SEEDS:
        model = random_chain(seed, (Kernel.CONV2D, Kernel.CONV2D, Kernel.ADD))
        call = lower_chain(model, model.chains[0])
        rows = [layer.buffer_rows for layer in call.layers[:-1]]
        kernels = {layer.kernel for layer in call.layers}
        if len(rows) > 2 and max(rows) > 2 and kernels == {1, 3}:
            return model
    raise AssertionError("no such chain")


def stream_operator(file: tflite.TfliteModel) -> tflite.Operator:
    (found,) = [op for op in file.operators if op.custom_code == op_name(STREAM)]
    return found


def test_the_documented_bytes():
    model = damageable()
    call = lower_chain(model, model.chains[0])
    nodes = {node.name: node for node in model.nodes}
    layers = [nodes[name] for name in model.chains[0]]
    outputs = [model.tensors[node.output] for node in layers]
    n = len(layers)
    data = stream_operator(tflite.read(serialize(model))).options
    magic, version, size, rank, scale, *counts = struct.unpack_from("<4sHBBf3i", data)
    assert (magic, version, size, rank) == (b"TFMX", 1, 12, len(outputs[-1].shape))
    assert scale == np.float32(outputs[-1].quant.scale)
    assert counts == [n, len(call.inputs), 0]
    words = struct.unpack_from(f"<{27 * n}i", data, RECORDS)
    for i, (node, layer) in enumerate(zip(layers, call.layers, strict=True)):
        record = words[27 * i : 27 * i + 27]
        assert record[0] == {Kernel.CONV2D: 1, Kernel.ADD: 3}[node.kernel]
        assert record[1] == model.tensors[node.inputs[0]].quant.bits
        assert record[4] == model.tensors[node.output].quant.bits
        assert record[6] == node.output_shape[0]
        assert record[8] == layer.buffer_rows
    columns = struct.unpack_from(f"<{n}i", data, 24 + 108 * n)
    assert list(columns) == [node.input_shapes[0][1] for node in layers]
    scales = struct.unpack_from(f"<{n - 1}f", data, 24 + 112 * n)
    assert list(scales) == [tensor.quant.scale for tensor in outputs[:-1]]
    ranks = data[20 + 116 * n : 19 + 117 * n]
    assert list(ranks) == [len(tensor.shape) for tensor in outputs[:-1]]
    names = data[19 + 117 * n :].decode().split("\0")
    assert len(names) == 2 * n + 1 and names[-3:] == ["" if call.constants else names[-3], "", ""]
    assert names[1:-3:2] == [tensor.name for tensor in outputs[:-1]]


def test_the_page_lists_the_fields_of_a_record():
    section = FORMAT.read_text().split("## Chains of layers")[1].split("\n## ")[0]
    table = section.split("27 int32:")[1]
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", table, flags=re.MULTILINE)
    fields = [(str(getattr(StreamLayer, name).offset), name) for name, *_ in StreamLayer._fields_]
    assert rows == fields


def test_the_output_may_lie_over_the_input():
    """As far below it as the chain says, and somewhere that happens."""
    overlapping = 0
    for seed in SEEDS:
        model = random_chain(seed)
        call = lower_chain(model, model.chains[0])
        file = tflite.read(serialize(model))
        offsets = np.frombuffer(file.metadata[ARENA_METADATA], "<i4")[3:]
        at = {t.name: int(o) for t, o in zip(file.tensors, offsets, strict=True) if o >= 0}
        sizes = {t.name: int(np.prod(t.shape)) for t in file.tensors if t.name in at}
        first, output = call.inputs[0], call.output
        if at[output] < at[first] + sizes[first] and at[first] < at[output] + sizes[output]:
            overlapping += 1
            assert at[first] >= at[output] + call.distance
    assert overlapping > 5


# -- the resolver -------------------------------------------------------------------------------


def test_the_resolver_names_the_kernels_of_chains():
    model = damageable()
    text = resolver_source(model, "net_ops")
    assert f"kCount = {len(operators_of(model)) + 1};" in text
    assert "tfmix::AddTFMIX_STREAM<kStreamKernels>(resolver)" in text
    for kernel in stream_kernels_of(model):
        assert f"    {kernel}\n" in text
    assert "kStreamKernels" not in resolver_source(replace(model, chains=(), bands={}))


# -- damage -------------------------------------------------------------------------------------


def word(offset: int, value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + struct.pack("<i", value) + data[offset + 4 :]


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no layers": (word(12, 0), "0 layers"),
    "too many layers": (word(12, 65), "65 layers"),
    "layers cut off": (word(12, 60), "bytes of 60 layers"),
    "by rows": (word(20, 3), "3 rows of its input"),
    "inputs": (word(16, 50), "50 inputs of a chain"),
    "counts cut off": (lambda data: data[:20], "bytes of a chain"),
    "kernel": (word(RECORDS, 9), "kernel 9 of a layer"),
    "bits": (word(RECORDS + 4, 3), "there is no kernel variant"),
    "rows": (word(RECORDS + 24, 1), "contradict"),
    "band": (word(RECORDS + 28, 1000), "makes 1000 rows a call"),
    "no band": (word(RECORDS + 28, 0), "makes 0 rows a call"),
    "fewer rows kept": (word(RECORDS + 32, 0), "its rows .* contradict"),
    "more rows kept": (word(RECORDS + 32, 100), "its rows .* contradict"),
    "input": (word(RECORDS + 36, 60), r"inputs \(60,\)"),
    "own output": (word(RECORDS + 36, 5), r"inputs \(5,\)"),
    "second input": (word(RECORDS + 40, 0), "contradict"),
    "params": (word(RECORDS + 44, 1), "does not fit tensor"),
    "names": (lambda data: data[:-1], "names in a chain"),
    "text": (lambda data: data[:-2] + b"\xff\0", "not UTF-8"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_damaged_options_are_refused(what):
    change, message = REFUSED[what]
    with pytest.raises(TfmixError, match=message):
        deserialize(with_operator(options=change))


def with_operator(**changes: Callable[[Any], Any]) -> bytes:
    """A file whose chain has other fields."""
    file = tflite.read(serialize(damageable()))
    old = stream_operator(file)
    new = replace(old, **{name: change(getattr(old, name)) for name, change in changes.items()})
    operators = tuple(new if op is old else op for op in file.operators)
    return tflite.write(replace(file, operators=operators))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs[:-1], "no constants of the layer"),
        (lambda inputs: (*inputs, inputs[-1]), "constants, fewer expected"),
        (lambda inputs: inputs[:0], "1 inputs of a chain"),
        (lambda inputs: (inputs[-1], *inputs[1:]), "read before it is written"),
    ],
)
def test_other_inputs_are_refused(change, message):
    with pytest.raises(FormatError, match=message):
        deserialize(with_operator(inputs=change))


def test_a_name_with_a_zero_character_cannot_be_written():
    model = damageable()
    name = model.chains[0][0]
    (node,) = [node for node in model.nodes if node.name == name]
    renamed = "x\0y"
    tensors = {renamed if k == node.output else k: v for k, v in model.tensors.items()}
    tensors[renamed] = replace(tensors[renamed], name=renamed)
    nodes = tuple(
        replace(
            n,
            output=renamed if n.output == node.output else n.output,
            inputs=tuple(renamed if x == node.output else x for x in n.inputs),
        )
        for n in model.nodes
    )
    with pytest.raises(TfmixError, match="zero character"):
        serialize(replace(model, tensors=tensors, nodes=nodes))


@pytest.mark.parametrize(
    ("bands", "message"),
    [({"nobody": 2}, "'nobody' is in no chain"), ({0: 1000}, "1000 rows a call")],
)
def test_bands_that_are_none(bands, message):
    model = damageable()
    bands = {model.chains[0][key] if key == 0 else key: band for key, band in bands.items()}
    with pytest.raises(TfmixError, match=message):
        serialize(replace(model, bands=bands))
