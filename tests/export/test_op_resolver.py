"""The header with a model's operators: what it names, how large it says the arena is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tf_keras
from integer_models import random_model

import tfmix
from tfmix.errors import TfmixError
from tfmix.export import tflite
from tfmix.export.flatbuffer import serialize
from tfmix.export.op_resolver import arena_bytes, census_of, resolver_source
from tfmix.integer.inference import IntegerModel
from tfmix.integer.schedule import schedule_of
from tfmix.ir.graph import as_graph
from tfmix.ir.schedule import schedule
from tfmix.policy.cost.arena import plan
from tfmix.policy.cost.tflm import Census, census


def added(text: str) -> list[str]:
    return re.findall(r"tfmix::Add(TFMIX_\w+)\(resolver\)", text)


@pytest.mark.parametrize("seed", range(12))
def test_it_names_the_operators_of_the_file(seed):
    network = random_model(seed, nodes=8)
    text = resolver_source(network)
    assert added(text) == sorted(set(tflite.operator_names(serialize(network))))
    assert f"kCount = {len(added(text))};" in text
    assert f"kArenaBytes = {arena_bytes(network)};" in text
    assert text == resolver_source(network)


@pytest.mark.parametrize("seed", range(12))
def test_the_census_counts_what_is_in_the_file(seed):
    network = random_model(seed, nodes=8)
    file = tflite.read(serialize(network))
    found = census_of(network)
    assert found.operators == len(file.operators)
    assert found.constants == sum(tensor.data is not None for tensor in file.tensors)
    assert found.activations + found.constants == len(file.tensors)


def _model() -> tf_keras.Model:
    """Convolutions, a branch that is added and one that is concatenated, a reshape, a softmax."""
    layers = tf_keras.layers
    inputs = tf_keras.Input((8, 9, 3))
    x = skip = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Add()([layers.BatchNormalization()(x), skip])
    x = layers.Flatten()(layers.Concatenate()([x, skip]))
    return tf_keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def test_the_report_predicts_what_the_export_says():
    x = np.random.default_rng(0).normal(size=(4, 8, 9, 3)).astype(np.float32)
    qmodel = tfmix.quantize_model(_model(), None, calibration_data=x, verbose=0)
    network = tfmix.convert(qmodel).network
    graph, report = as_graph(qmodel), tfmix.memory_report(qmodel)
    bits = tfmix.get_policy(qmodel).activation_bits
    assert census(graph, schedule(graph, bits)) == census_of(network)
    assert report.activation_bytes == plan(schedule_of(network)).total
    assert arena_bytes(network) >= report.ram_bytes


def test_a_small_network_needs_more_while_it_loads():
    network = Census(operators=1, activations=2, constants=1, scratch_buffers=1)
    used = network.interpreter_bytes + 16
    # 13 requests of 12 B, a word, 4 notes of 24 B; three buffers of 40 B; structs of 228 B: to 16.
    assert network.arena_bytes(16) == 624 > used
    assert network.arena_bytes(512) == 880 >= network.interpreter_bytes + 512


def test_export_writes_both(tmp_path):
    model = IntegerModel(random_model(0))
    path = tfmix.export(model, tmp_path / "net.tflite", resolver=tmp_path / "net_ops.h")
    text = (tmp_path / "net_ops.h").read_text()
    assert path.read_bytes() == serialize(model.network)
    assert text == resolver_source(model.network, "net_ops")
    assert "namespace net_ops {" in text and "#ifndef NET_OPS_H_" in text
    assert tfmix.export_resolver(model, tmp_path / "again.h").name == "again.h"


@pytest.mark.parametrize("name", ["1st.h", "my-ops.h", ".h"])
def test_names_must_be_identifiers(name, tmp_path):
    with pytest.raises(TfmixError, match="is not a C identifier"):
        tfmix.export_resolver(IntegerModel(random_model(0)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_no_directory(tmp_path):
    with pytest.raises(TfmixError, match="there is no directory"):
        tfmix.export_resolver(IntegerModel(random_model(0)), tmp_path / "none" / "ops.h")
