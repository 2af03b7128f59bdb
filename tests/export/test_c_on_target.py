"""C networks on the boards of QEMU: the same bytes as here, within a budget or not linked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integer_models import random_model
from network_on_target import (
    STACK_SIZE,
    build_firmware,
    compile_kernels,
    macs,
    run_firmware,
)
from target import BOARDS, M7, TOOLS, Board, ToolMissing, require

import tfmix
from tfmix.integer.lower import lower
from tfmix.integer.schedule import schedule_of
from tfmix.policy.cost.arena import plan

SEED, NODES = 4, 10

try:
    require(*TOOLS)
except ToolMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture(scope="module")
def model() -> tfmix.IntegerModel:
    return tfmix.IntegerModel(random_model(SEED, NODES))


@pytest.fixture(scope="module")
def kernels(model, tmp_path_factory) -> dict[Board, list[Path]]:
    """By board. Only the variants that the network calls, which saves seconds."""
    directory = tmp_path_factory.mktemp("kernels")
    *_, variants = tfmix.export_c(model, directory, name="network")
    flags = ["-include", str(variants)]
    return {board: compile_kernels(board, directory / board.cpu, flags) for board in BOARDS}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_outputs_on_the_board(board, model, kernels, tmp_path):
    firmware = build_firmware(model, kernels[board], board, tmp_path)
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (3, *model.input_shape), np.uint8)
    outcome = run_firmware(firmware, q)
    np.testing.assert_array_equal(outcome.outputs, model.run(q))
    network = model.network
    assert firmware.arena == plan(schedule_of(network)).total
    calls = {lower(node, network.tensors).variant for node in network.nodes}
    assert set(firmware.variants) == calls
    assert macs(network) < outcome.instructions.min()
    assert 0 < outcome.stack <= STACK_SIZE
    assert outcome.layers == ()


@pytest.mark.parametrize(
    ("budget", "region"),
    [(tfmix.Budget(flash="128 B", ram="8 kB"), "MODEL"), (tfmix.Budget("8 kB", "64 B"), "ARENA")],
)
def test_what_exceeds_the_budget_does_not_link(budget, region, model, kernels, tmp_path):
    with pytest.raises(RuntimeError, match=f"region `{region}' overflowed"):
        build_firmware(model, kernels[M7], M7, tmp_path, budget)


def test_a_budget_of_exactly_the_network_links(model, kernels, tmp_path):
    firmware = build_firmware(model, kernels[M7], M7, tmp_path / "free")
    budget = tfmix.Budget(flash=firmware.model, ram=firmware.arena)
    assert build_firmware(model, kernels[M7], M7, tmp_path / "exact", budget).arena == budget.ram


def test_a_profile_has_every_layer(model, kernels, tmp_path):
    q = np.zeros((2, *model.input_shape), np.uint8)
    plain = run_firmware(build_firmware(model, kernels[M7], M7, tmp_path / "plain"), q)
    profile = build_firmware(model, kernels[M7], M7, tmp_path / "profile", profile=True)
    layers = run_firmware(profile, q).layers
    assert len(layers) == len(model.network.nodes)
    assert sum(layers) == pytest.approx(plain.instructions[0], rel=0.02)
