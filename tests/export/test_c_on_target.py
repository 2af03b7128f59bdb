"""C networks on the boards of QEMU: the same bytes as here, within a budget or not linked."""

from __future__ import annotations

from dataclasses import replace
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
from random_chains import random_chain
from target import BOARDS, M7, TOOLS, Board, ToolMissing, require

import tfmix
from tfmix.integer import abi
from tfmix.integer.lower import lower
from tfmix.integer.model import IntegerNetwork, Kernel
from tfmix.integer.schedule import schedule_of
from tfmix.policy.cost.arena import plan

SEED, NODES = 4, 10
CHAINS = range(6)

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


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.cpu)
def test_chains_on_the_board(board, chains, tmp_path):
    """Streamed, in an arena of exactly the plan, as layer by layer on this machine."""
    models, kernels = chains
    for seed, model in models.items():
        exact = tfmix.Budget(ram=plan(schedule_of(model)).total)
        network = tfmix.IntegerModel(model)
        firmware = build_firmware(network, kernels[board], board, tmp_path / str(seed), exact)
        q = np.random.default_rng(seed).integers(0, 256, (2, *model.input_shape), np.uint8)
        expected = tfmix.IntegerModel(replace(model, chains=(), bands={})).run(q)
        np.testing.assert_array_equal(run_firmware(firmware, q).outputs, expected)


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> tuple[dict[int, IntegerNetwork], dict[Board, list[Path]]]:
    """Networks with chains by seed, and by board the kernels that they call."""
    models = {seed: random_chain(seed) for seed in CHAINS}
    used = {lower(n, model.tensors).variant for model in models.values() for n in model.nodes}
    lists = {kernel: "" for kernel in Kernel}
    for variant in map(abi.parse_variant, sorted(used)):
        lists[variant.kernel] += f" X_({', '.join(variant.tags)})"
    directory = tmp_path_factory.mktemp("chains")
    variants = directory / "variants.inc"
    variants.write_text(
        "#define TFMIX_VARIANTS_INC_\n"
        + "".join(f"#define TFMIX_{k.value.upper()}_VARIANTS(X_){v}\n" for k, v in lists.items())
    )
    flags = ["-include", str(variants)]
    return models, {board: compile_kernels(board, directory / board.cpu, flags) for board in BOARDS}


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
