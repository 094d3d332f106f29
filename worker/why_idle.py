"""Why the coordinator has no work, for the worker's owner: the reason in our own words, and what it says to that as its claim."""

from __future__ import annotations

from typing import Final

from diffusion_at_home.rpc.coordinator_pb2 import Idle
from worker.told import told

COMPLETE: Final = "the run is complete"

_REASONS: Final = {
    Idle.REASON_ROUND_FULL: "all data of this round is leased",
    Idle.REASON_CLOSING: "round is closing",
    Idle.REASON_DRAINING: "the operator has paused the run",
    Idle.REASON_COMPLETE: COMPLETE,
    Idle.REASON_QUARANTINED: "the last contributions did not count (see its log): no leases for some rounds",
}


def why_idle(idle: Idle) -> str:
    """One line."""
    ours, theirs = _REASONS.get(idle.reason, "the coordinator has no work"), told(idle.sentence)
    return f'{ours}: "{theirs}"' if theirs else ours
