"""Which checkpoint is the best: the one with the lowest held-out loss, and nothing else.

That figure is there before a checkpoint is offered; it is of the weights that load by default, the better of raw and average;
and every checkpoint gets the same pictures and the same noise, so no luck is in it. What drawn pictures are judged to be has
some, comes later if it comes at all, and is several figures that need not agree.

The least of what only grows never rises, and retention never lets the best go: so what is offered as the best is never worse
than what was before, unless that was found damaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar


class HasLoss(Protocol):
    """A checkpoint, whatever else is known of it."""

    @property
    def held_out_loss(self) -> float:
        """Of its default weights; not finite is worse than any number."""


CheckpointT = TypeVar("CheckpointT", bound=HasLoss)


def best_of(checkpoints: Sequence[CheckpointT]) -> CheckpointT | None:
    """The best of `checkpoints`, which are sorted from the oldest on; of equals the newest."""
    return min(reversed(checkpoints), key=_loss, default=None)


def _loss(checkpoint: HasLoss) -> float:
    return checkpoint.held_out_loss if math.isfinite(checkpoint.held_out_loss) else math.inf
