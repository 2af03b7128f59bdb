"""QuantizationPolicy: a value, its JSON, its checks."""

import copy
import json
import pickle

import pytest
from graphs import chain, resnet
from hypothesis import given
from hypothesis import strategies as st

from tfmix.errors import FormatError, TfmixError
from tfmix.policy.policy import QuantizationPolicy

bit_widths = st.dictionaries(st.text(), st.sampled_from((2, 4, 8)))


@pytest.fixture
def policy():
    return QuantizationPolicy({"conv": 8, "dense": 2}, {"input": 8, "conv": 4, "dense": 8})


def test_uniform_keeps_input_and_logits_at_8():
    graph = resnet()
    policy = QuantizationPolicy.uniform(graph, 2)
    assert set(policy.weight_bits.values()) == {2}
    assert list(policy.weight_bits) == [node.name for node in graph.weighted_nodes]
    assert list(policy.activation_bits) == list(graph.quantized_tensors)
    assert next(iter(policy.activation_bits)) == "input"
    eight = {tensor for tensor, bits in policy.activation_bits.items() if bits == 8}
    assert eight == {"input", "classifier"} == graph.fixed_tensors
    policy.validate(graph)


@pytest.mark.parametrize("bits", [0, 3, 16, True, "8", None])
def test_illegal_bits(bits):
    with pytest.raises(TfmixError, match="weights 'conv': bit-width .* is not one of"):
        QuantizationPolicy({"conv": bits}, {})
    with pytest.raises(TfmixError, match="activation 'x': bit-width"):
        QuantizationPolicy({}, {"x": bits})


# -- a value ------------------------------------------------------------------------------------


def test_equal_whatever_the_order(policy):
    other = QuantizationPolicy({"dense": 2, "conv": 8}, dict(policy.activation_bits))
    assert other == policy and hash(other) == hash(policy)
    assert policy.replace(weights={"conv": 4}) != policy


@pytest.mark.parametrize(
    "change",
    [
        lambda bits: bits.__setitem__("conv", 2),
        lambda bits: bits.__delitem__("conv"),
        lambda bits: bits.update(conv=2),
        lambda bits: bits.setdefault("new", 2),
        lambda bits: bits.pop("conv"),
        lambda bits: bits.popitem(),
        lambda bits: bits.clear(),
        lambda bits: bits.__ior__({"conv": 2}),
    ],
)
def test_cannot_change(policy, change):
    before = dict(policy.weight_bits)
    with pytest.raises(TypeError, match="replace"):
        change(policy.weight_bits)
    assert policy.weight_bits == before


def test_copies(policy):
    assert pickle.loads(pickle.dumps(policy)) == policy == copy.deepcopy(policy)
    free = policy.weight_bits.copy()
    free["conv"] = 2
    assert policy.weight_bits["conv"] == 8


def test_does_not_share_the_dict_it_was_made_of():
    bits = {"conv": 8}
    policy = QuantizationPolicy(bits, {})
    bits["conv"] = 2
    assert policy.weight_bits == {"conv": 8}


def test_replace(policy):
    other = policy.replace(weights={"dense": 4}, activations={"conv": 2})
    assert other.weight_bits == {"conv": 8, "dense": 4}
    assert list(other.activation_bits.items()) == [("input", 8), ("conv", 2), ("dense", 8)]
    with pytest.raises(TfmixError, match=r"no weights \['nope'\]"):
        policy.replace(weights={"nope": 4})
    with pytest.raises(TfmixError, match="not one of"):
        policy.replace(activations={"conv": 5})


# -- validate -----------------------------------------------------------------------------------


def test_validate_lists_everything():
    graph = chain(4, 4)
    policy = QuantizationPolicy({"c0": 8, "x": 2}, {"input": 4, "c0": 8, "y": 8})
    with pytest.raises(TfmixError) as error:
        policy.validate(graph)
    message = str(error.value)
    for part in (
        "weights: missing ['c1']",
        "weights: unknown ['x']",
        "activations: missing ['c1']",
        "activations: unknown ['y']",
        "activation 'input' has 4 bits",
    ):
        assert part in message


# -- JSON ---------------------------------------------------------------------------------------


@given(bit_widths, bit_widths)
def test_json_round_trip_keeps_the_order(weights, activations):
    policy = QuantizationPolicy(weights, activations)
    again = QuantizationPolicy.from_json(policy.to_json())
    assert again == policy
    assert list(again.weight_bits) == list(weights)
    assert list(again.activation_bits) == list(activations)


def document(policy, **changes):
    return json.dumps({**json.loads(policy.to_json()), **changes})


def test_json_errors(policy):
    for text, message in [
        ("{", "not valid JSON"),
        ("[]", "not a policy"),
        ('{"format": "other"}', "not a policy"),
        (document(policy, version=2), "policy of version 2; this library reads 1"),
        (document(policy, weight_bits=[8]), "weight_bits"),
        (document(policy, extra=1), "extra"),
        (policy.to_json().replace('"dense": 2', '"conv": 2'), r"\['conv'\] more than once"),
    ]:
        with pytest.raises(FormatError, match=message):
            QuantizationPolicy.from_json(text)
    with pytest.raises(TfmixError, match="weights 'conv': bit-width 3"):
        QuantizationPolicy.from_json(document(policy, weight_bits={"conv": 3}))


# -- reading ------------------------------------------------------------------------------------


def test_str(policy):
    assert str(policy) == (
        "weights (1 x 8, 1 x 2 bits)   activations (2 x 8, 1 x 4 bits)\n"
        "  conv  8                       input 8\n"
        "  dense 2                       conv  4\n"
        "                                dense 8"
    )
