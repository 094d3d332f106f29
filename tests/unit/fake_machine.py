"""A machine whose clock, people, power, programs, cards and disk are what a test says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

from diffusion_at_home.clock import ManualClock
from worker.conditions.cards import CardReading
from worker.conditions.conditions import Conditions
from worker.conditions.idle import Input
from worker.conditions.sensors import Sensors
from worker.conditions.traffic import Traffic
from worker.settings import WorkerSettings

ReadingT = TypeVar("ReadingT")

GIB = 2**30
BERLIN = ZoneInfo("Europe/Berlin")
"""Put forward on 29 March 2026 at 02:00, and back on 25 October at 03:00."""


class ManualWall:
    """A clock on a wall in Berlin, which goes with a manual clock."""

    def __init__(self, clock: ManualClock, *start: int) -> None:
        """`start` is year, month, day, hour, minute there."""
        self._clock = clock
        self._start = datetime(*start, tzinfo=BERLIN).timestamp() - clock.now()  # type: ignore[misc,arg-type]  # as many as a test gives

    def now(self) -> float:
        return self._clock.now() + self._start

    def put(self, **by: float) -> None:
        """Set it forward, or back; as in timedelta."""
        self._start += timedelta(**by).total_seconds()

    def local(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, UTC).astimezone(BERLIN)


def settings(folder: Path = Path("/nowhere"), **sections: object) -> WorkerSettings:
    return WorkerSettings.model_validate({"state_dir": folder, "cache_dir": folder / "cache", **sections})


class FakeMachine:
    """What its sensors say may be changed at any time; an exception is raised."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(1000.0)
        self.wall = ManualWall(self.clock, 2026, 11, 27, 12, 0)  # a Friday
        self.traffic = Traffic(folder / "traffic.json", self.clock, self.wall)
        self.input: Input | Exception = Input(math.inf)
        self.on_battery: bool | Exception = False
        self.programs: Iterable[str] | Exception = ()
        self.cards: tuple[CardReading, ...] | Exception = ()
        self.free_bytes: int | Exception = 100 * GIB
        self.asked: list[str] = []

    def conditions(self, settings: WorkerSettings) -> Conditions:
        sensors = Sensors(
            lambda: self._say("input", self.input),
            lambda: self._say("battery", self.on_battery),
            lambda: self._say("programs", self.programs),
            lambda: self._say("cards", self.cards),
            lambda _folder: self._say("disk", self.free_bytes),
        )
        return Conditions(settings, sensors, self.traffic, self.clock, self.wall)

    def _say(self, name: str, reading: ReadingT | Exception) -> ReadingT:
        self.asked.append(name)
        if isinstance(reading, Exception):
            raise reading
        return reading
