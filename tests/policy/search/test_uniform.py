"""The same bits everywhere: the widest that fit."""

import graphs
import pytest

from tfmix.budget import Budget
from tfmix.ir.quant import BIT_WIDTHS
from tfmix.policy.cost.memory import PaperMemory
from tfmix.policy.policy import QuantizationPolicy
from tfmix.policy.search.base import Pinned, SearchProblem
from tfmix.policy.search.uniform import search

MEMORY = PaperMemory(graphs.resnet())


@pytest.mark.parametrize("weights", BIT_WIDTHS)
@pytest.mark.parametrize("activations", BIT_WIDTHS)
def test_the_widest_that_fit(weights, activations):
    flash = MEMORY.flash_bytes(QuantizationPolicy.uniform(MEMORY.graph, weights))
    ram = MEMORY.ram_bytes(QuantizationPolicy.uniform(MEMORY.graph, activations))
    for more in (0, 1000):
        policy = search(SearchProblem(MEMORY, Budget(flash + more, ram + more)))
        assert set(policy.weight_bits.values()) == {weights}
        free = {t: b for t, b in policy.activation_bits.items() if t not in ("input", "classifier")}
        assert set(free.values()) == {activations}
    if weights > 2:
        policy = search(SearchProblem(MEMORY, Budget(flash - 1, None)))
        assert set(policy.weight_bits.values()) == {weights // 2}
        assert set(policy.activation_bits.values()) == {8}


def test_pinned_bits_stay():
    pinned = Pinned.parse(MEMORY.graph, {"weights": {"conv1": 8}, "activations": {"pool": 2}})
    policy = search(SearchProblem(MEMORY, Budget(50_000, None), pinned))
    assert policy.weight_bits["conv1"] == 8 and policy.activation_bits["pool"] == 2
    assert {b for n, b in policy.weight_bits.items() if n != "conv1"} == {4}
