"""Time as a dependency: policy code asks a `Clock`, so tests run in no time and a wall clock that jumps changes nothing."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Source of monotonic seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back, not even when the wall clock does."""


class SystemClock:
    """The operating system's monotonic clock."""

    def now(self) -> float:
        """See `Clock.now`."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """See `Clock.now`."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move time forward by `seconds` (>= 0)."""
        assert seconds >= 0
        self._now += seconds
