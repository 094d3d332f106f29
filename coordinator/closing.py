"""When a round closes: pure policy over what has come in and when.

    target reached, or all that is left is too little to lease, and nobody is working  -> now
    nothing more is granted, by the operator's order, and nobody is working            -> now
    quorum reached after q seconds                                                     -> at q x (1 + round.grace),
                                                                                          two heartbeats later at least
                                                                                          while somebody works
    anything at all                                                                    -> at round.max_seconds
    nothing                                                                            -> not at all; the round waits

What a second volunteer trains again adds nothing to the target, but is work that is waited for: at most for the grace.

The time is counted from the first lease of the round, so that a run nobody has joined does not close empty rounds. Leases
are sized to end together, so a quorum comes near the end of a round, and a worker that hangs costs its whole grace. It is
short for that reason, yet long enough for everyone to hear of it by a heartbeat and to hand in what there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from diffusion_at_home.config.run import RunConfig

_HEARD_HEARTBEATS: Final = 2
"""Of a grace at least: everyone has heard of it after one."""


class CloseReason(StrEnum):
    """Why a round closed."""

    TARGET = "target"
    EXHAUSTED = "exhausted"
    GRACE = "grace"
    TIME = "time"
    DRAINED = "drained"
    ROLLBACK = "rollback"
    """Not by this policy: the run goes back, and what the round has does not count."""


@dataclass(slots=True)
class Progress:
    """A round so far. Times are seconds of the coordinator's monotonic clock."""

    target_images: int
    min_lease_images: int
    """Less than this is not worth a lease."""
    accepted_images: int = 0
    leased_images: int = 0
    """In leases that are being worked on."""
    second_images: int = 0
    """In those that train another lease again."""
    started_at: float | None = None
    """First lease granted; None before."""
    quorum_at: float | None = None
    """Quorum reached; None before."""

    @property
    def unleased_images(self) -> int:
        """Images that nobody works on yet."""
        return max(0, self.target_images - self.accepted_images - self.leased_images)

    @property
    def is_worked_on(self) -> bool:
        """Whether any lease is out."""
        return self.leased_images > 0 or self.second_images > 0

    def count(self, images: int, *, quorum: float, now: float) -> None:
        """Add images that were accepted `now`; a share `quorum` of the target is the quorum."""
        self.accepted_images += images
        if self.quorum_at is None and self.accepted_images >= quorum * self.target_images:
            self.quorum_at = now


def closes_at(config: RunConfig, progress: Progress) -> float | None:
    """When the round closes if nothing more comes in; None while that is not known."""
    if progress.started_at is None:
        return None
    box = progress.started_at + config.round.max_seconds
    if progress.quorum_at is None:
        return box
    share = config.round.grace * (progress.quorum_at - progress.started_at)
    to_hear = _HEARD_HEARTBEATS * config.lease.heartbeat_seconds if progress.is_worked_on else 0.0
    return min(box, progress.quorum_at + max(share, to_hear))


def close_reason(config: RunConfig, progress: Progress, now: float, *, draining: bool = False) -> CloseReason | None:
    """Why the round closes now, or None if it does not; while `draining`, nothing more is granted in it."""
    is_reached = progress.accepted_images >= progress.target_images
    if is_reached and not progress.second_images:
        return CloseReason.TARGET
    if progress.accepted_images == 0:
        return None
    if not progress.is_worked_on and progress.unleased_images < progress.min_lease_images:
        return CloseReason.EXHAUSTED
    if draining and not progress.is_worked_on and progress.started_at is not None:  # not for what came late alone
        return CloseReason.DRAINED
    deadline = closes_at(config, progress)
    if deadline is None or now < deadline:
        return None
    if is_reached:
        return CloseReason.TARGET
    return CloseReason.TIME if progress.quorum_at is None else CloseReason.GRACE
