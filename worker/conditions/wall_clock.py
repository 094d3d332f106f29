"""The time on the wall, which people set their hours by: it may be set forward or back, and twice a year it jumps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class WallClock(Protocol):
    """Where and when we are."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def local(self, seconds: float) -> datetime:
        """The same moment as an aware time of this place."""


class SystemWallClock:
    """The operating system's."""

    def now(self) -> float:
        """See `WallClock.now`."""
        return time.time()

    def local(self, seconds: float) -> datetime:
        """See `WallClock.local`."""
        return datetime.fromtimestamp(seconds, UTC).astimezone()


def when(moment: datetime, now: datetime) -> str:
    """A moment to come, for people: `18:00`, or with its day, `Mon 18:00`, or with its date, `1 December`."""
    if moment.date() == now.date():
        return f"{moment:%H:%M}"
    if (moment - now).days < 6:
        return f"{moment:%a %H:%M}"
    return f"{moment.day} {moment:%B}"


def next_month(wall: WallClock) -> datetime:
    """When the first day of the coming month begins."""
    now = wall.local(wall.now())
    first = (now.replace(day=28) + timedelta(days=4)).replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
    # An aware time may keep today's distance from UTC, which summer time changes meanwhile.
    shown = wall.local(first.timestamp())
    return wall.local((first - (shown.replace(tzinfo=None) - first.replace(tzinfo=None))).timestamp())
