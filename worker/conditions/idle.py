"""Work only when nobody has used the machine for some minutes (`when.only_when_idle_minutes`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from diffusion_at_home.clock import Clock
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.conditions.rule import CannotTell
from worker.conditions.wall_clock import WallClock, when
from worker.settings import WorkerSettings

_ASK_SECONDS: Final = 5.0
"""While it works: how late a person who comes back is noticed."""

_LONGEST_ASK_SECONDS: Final = 60.0
"""While somebody is there: before so many minutes without input it cannot work anyway."""


@dataclass(frozen=True, slots=True)
class Input:
    """When somebody last used the machine."""

    idle_seconds: float
    """Since the last input that can be seen; infinite if there was none."""
    unseen: str = ""
    """What cannot be seen, and what to do about it: one sentence, or empty."""


class InputSensor(Protocol):
    """What sees keyboard, mouse and terminals."""

    def __call__(self) -> Input:
        """The last input."""


class OnlyWhenIdle:
    """See `Rule`."""

    def __init__(self, sensor: InputSensor, clock: Clock, wall: WallClock) -> None:
        self._sensor = sensor
        self._clock = clock
        self._wall = wall
        self._ask_at = -math.inf
        self._asked_at = 0.0
        self._seen: Input | Exception = Input(math.inf)

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        needed = settings.when.only_when_idle_minutes * 60.0
        if needed == 0:
            return None
        now = self._clock.now()
        if now >= self._ask_at:
            self._ask(now, needed)
        if isinstance(self._seen, Exception):
            raise self._seen
        seen = self._seen
        missing = needed - seen.idle_seconds - (now - self._asked_at)
        if missing > 0:
            return self._in_use(missing, settings.when.only_when_idle_minutes)
        if seen.unseen:
            raise CannotTell(seen.unseen)
        return None

    def _ask(self, now: float, needed: float) -> None:
        self._asked_at, self._ask_at = now, now + _ASK_SECONDS
        try:
            self._seen = self._sensor()
        except Exception as error:  # noqa: BLE001 -- raised whenever the rule is asked, until the sensor works again
            self._seen = error
            return
        self._ask_at = now + min(max(needed - self._seen.idle_seconds, _ASK_SECONDS), _LONGEST_ASK_SECONDS)

    def _in_use(self, missing: float, minutes: int) -> Hindrance:
        seconds = self._wall.now()
        until = self._wall.local(math.ceil((seconds + missing) / 60) * 60)
        return Hindrance(
            IdleReason.IN_USE,
            f"somebody uses this machine: it works after {minutes} minutes without input, "
            f"at {when(until, self._wall.local(seconds))} at the earliest",
            until,
        )
