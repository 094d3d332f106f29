"""How a worker kept its weights while it trained: what decides most of how far two honest results of a lease are apart."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from diffusion_at_home.rpc.coordinator_pb2 import KeptWeights as Wire


class KeptWeights(StrEnum):
    """By its worker's word, which it signs: whoever says `exact` is held to what exact weights come to."""

    EXACT = "exact"
    """fp32, or bf16 with the remainder beside it."""
    ROUNDED = "rounded"
    """16 bits, rounded at random."""


_WIRE: Final = {KeptWeights.EXACT: Wire.KEPT_WEIGHTS_EXACT, KeptWeights.ROUNDED: Wire.KEPT_WEIGHTS_ROUNDED}
_READ: Final[dict[int, KeptWeights]] = {value: kept for kept, value in _WIRE.items()}


def to_wire(kept: KeptWeights) -> Wire:
    """As a `SubmitHeader` has it."""
    return _WIRE[kept]


def from_wire(value: int) -> KeptWeights | None:
    """What a `SubmitHeader` says; None if that is none of them."""
    return _READ.get(value)
