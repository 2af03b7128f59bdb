"""The memory model of a network: how each accounting counts its bytes."""

from __future__ import annotations

from typing import Literal

from tfmix.export.flatbuffer import file_size
from tfmix.integer.convert import skeleton
from tfmix.ir.graph import Graph
from tfmix.policy.cost.memory import (
    DeployedMemory,
    MemoryModel,
    PaperMemory,
    StreamingMemory,
)
from tfmix.policy.cost.streaming import NO_CHAINS, ChainPlan
from tfmix.policy.policy import QuantizationPolicy


def memory_model(
    graph: Graph,
    weights: Literal["per_channel", "per_layer"],
    accounting: Literal["deployed", "paper"],
    streaming_ram: int | None = None,
) -> MemoryModel:
    """What `graph` costs under a policy, as `Budget.accounting` says: "deployed" counts the file
    that `export_network` writes. streaming_ram: as `Budget.streaming_ram`."""
    if accounting == "paper":
        return PaperMemory(graph, weights)
    per_channel = weights == "per_channel"

    def size(policy: QuantizationPolicy, plan: ChainPlan = NO_CHAINS) -> int:
        return file_size(skeleton(graph, policy, per_channel=per_channel, plan=plan))

    if streaming_ram is None:
        return DeployedMemory(graph, size)
    return StreamingMemory(graph, size, streaming_ram)
