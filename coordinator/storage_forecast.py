"""How long the disk will do: what a run holds, how fast that grows, and what goes first once it is too much. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from coordinator.records import Totals, Version
from coordinator.retention import Holdings, plan

GIB: Final = 2**30

WINDOW: Final = timedelta(days=1)
"""Whose pace is taken for that of the days to come."""

_SHORTEST: Final = timedelta(minutes=10)
"""Of history, before which nothing is foretold."""

_SOON_DAYS: Final = 3.0
"""Before the disk is full, from which on the operator is told."""

_LEAST_FREE_BYTES: Final = GIB
"""With less, whatever the pace is."""


@dataclass(frozen=True, slots=True)
class Growth:
    """What has come of late, and what that was worth."""

    images_per_day: float
    bytes_per_image: float
    """Of contributions, updates and checkpoints, over the whole run."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The forecast."""

    used_bytes: int
    """By the run's folder."""
    quota_bytes: int
    """0 is no limit."""
    free_bytes: int
    """On the disk."""
    growth_bytes_per_day: float | None
    """None while nobody can tell."""
    days_to_end: float | None
    """Until the run has its images, at the pace of the last day; None if that is not known, or nothing moves."""
    needed_bytes: int | None
    """That will come until the end; with a quota no more than that leaves."""
    days_to_quota: float | None
    """None if it is not known, or never reached before the end."""
    days_to_full: float | None
    """The same of the disk."""
    goes_first: str
    """What would be deleted first at the quota, as things are now; or that nothing would."""

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        parts = [f"{_gib(self.used_bytes)} GiB used, {_gib(self.free_bytes)} GiB of the disk free"]
        if self.growth_bytes_per_day is not None:
            parts.append(f"{_gib(self.growth_bytes_per_day)} GiB more a day")
        if self.needed_bytes is not None:
            parts.append(f"{_gib(self.needed_bytes)} GiB more until the end")
        if self.quota_bytes:
            parts.append(
                f"quota {_gib(self.quota_bytes)} GiB{_in(self.days_to_quota)}, then first go {self.goes_first}"
            )
        if self.days_to_full is not None:
            parts.append(f"disk full{_in(self.days_to_full)}")
        return "; ".join(parts)

    @property
    def warning(self) -> str:
        """One sentence if the disk does not last; else empty."""
        if self.free_bytes < _LEAST_FREE_BYTES:
            return f"only {_gib(self.free_bytes)} GiB of the disk are free: {_REMEDY}"
        if self.days_to_full is not None and self.days_to_full < _SOON_DAYS:
            return f"the disk is full in {self.days_to_full:.1f} days at the present pace: {_REMEDY}"
        return ""


_REMEDY: Final = "free some space, move the run to a larger disk, or set a quota (`dah coordinator run --quota-gib`)"


def growth(history: Sequence[Version], totals: Totals, checkpoint_bytes: int, now_ms: int) -> Growth | None:
    """By the versions of a run, oldest first, all it has received, and all checkpoints that it made; None if it is too young."""
    window_ms = WINDOW / timedelta(milliseconds=1)
    start = max(history[0].published_at_ms, now_ms - window_ms)
    images = sum(version.images - history[version.parent].images for version in history[1:])  # also what was undone
    if now_ms - start < _SHORTEST / timedelta(milliseconds=1) or images <= 0:
        return None
    lately = sum(v.images - history[v.parent].images for v in history[1:] if v.published_at_ms >= start)
    came = totals.uplink_bytes + totals.downlink_bytes + checkpoint_bytes
    return Growth(lately * window_ms / (now_ms - start), came / images)


def forecast(
    holdings: Holdings, *, quota_bytes: int, free_bytes: int, grows: Growth | None, images_left: int
) -> Storage:
    """What will become of `holdings`."""
    per_day = needed = days_to_end = None
    if grows is not None:
        per_day = grows.images_per_day * grows.bytes_per_image
        needed = int(max(images_left, 0) * grows.bytes_per_image)
        days_to_end = max(images_left, 0) / grows.images_per_day if grows.images_per_day else None
    room = max(quota_bytes - holdings.total_bytes, 0) if quota_bytes else None
    if needed is not None and room is not None:
        needed = min(needed, room)
    return Storage(
        used_bytes=holdings.total_bytes,
        quota_bytes=quota_bytes,
        free_bytes=free_bytes,
        growth_bytes_per_day=per_day,
        days_to_end=days_to_end,
        needed_bytes=needed,
        days_to_quota=None if room is None else _days(room, per_day, days_to_end),
        days_to_full=None if needed is not None and needed <= free_bytes else _days(free_bytes, per_day, days_to_end),
        goes_first=first_to_go(holdings, quota_bytes),
    )


def first_to_go(holdings: Holdings, quota_bytes: int) -> str:
    """What retention would let go of if `holdings` were one byte too much."""
    if not quota_bytes:
        return "nothing is deleted: there is no quota"
    found = plan(holdings, min(quota_bytes, max(holdings.total_bytes - 1, 1)), may_save=True)
    if found.damaged:
        return f"what was set aside in damaged/: {', '.join(found.damaged[:3])}"
    if found.updates_upto:
        return f"updates up to version {found.updates_upto}, which no snapshot needs"
    if found.states:
        return f"the older saved state, of version {found.states[0]}"
    if found.anchor is not None:
        return f"contributions up to version {found.anchor}, whose state is kept as the anchor"
    if found.waits:
        return "contributions, once those since the anchor weigh more than a state"
    if found.checkpoints:
        return f"checkpoint {found.checkpoints[0]}"
    return "nothing: all that is there must be kept"


def _days(room_bytes: int, per_day: float | None, days_to_end: float | None) -> float | None:
    if not per_day:
        return None
    days = room_bytes / per_day
    return days if days_to_end is None or days < days_to_end else None


def _in(days: float | None) -> str:
    return "" if days is None else f" in {days:.1f} days"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f}"
