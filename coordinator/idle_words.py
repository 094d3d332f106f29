"""Why a worker gets no work now, in words that add to the reason's name. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from coordinator.dispatcher import IdleReason

MOST: Final = 300
"""Characters of a sentence: `Idle.sentence` has no more."""


@dataclass(frozen=True, slots=True)
class RunNow:
    """What there is to tell of the run."""

    round_number: int
    """The open one, or the next."""
    seconds_to_close: float | None
    """Of the open one; None while that is not known."""
    drain_note: str
    """The operator's."""
    total_images: int


def why_idle(reason: IdleReason, now: RunNow) -> str:
    """What more there is to say of `reason`; empty if nothing."""
    match reason:
        case IdleReason.ROUND_FULL:
            left = now.seconds_to_close
            return f"round {now.round_number:,}" + ("" if left is None else f" closes in {_span(left)} at the latest")
        case IdleReason.CLOSING:
            return f"version {now.round_number:,} is being made"
        case IdleReason.DRAINING:
            return now.drain_note[:MOST]
        case IdleReason.COMPLETE:
            return f"it has its {now.total_images:,} images"
        case IdleReason.STOPPING:
            return ""


def why_quarantined(rounds_left: int, round_number: int) -> str:
    """Of a worker that gets no lease for `rounds_left` rounds, of which `round_number` is the first."""
    rounds = "one round" if rounds_left == 1 else f"{rounds_left:,} rounds"
    return f"none for {rounds}, then again from round {round_number + rounds_left:,} on"


def _span(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} s" if whole < 120 else f"{math.ceil(whole / 60):,} minutes"
