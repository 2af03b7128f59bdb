"""What each tensor's bits cost in accuracy: the table that an optimal policy is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SensitivityTable:
    """Loss increase of each tensor at each bit-width, all others as they are in the baseline.

    weights:      node name -> {bits: increase in nats a sample}
    activations:  tensor name -> {bits: increase in nats a sample}
    source:       how it was measured, for reports
    """

    weights: Mapping[str, Mapping[int, float]] = field(hash=False)
    activations: Mapping[str, Mapping[int, float]] = field(hash=False)
    source: str = ""
