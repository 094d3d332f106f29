"""The hours of the week in which to work, as a person writes them: `mon-fri 18:00-08:00`, `sat,sun 00:00-24:00`.

What the clock on the wall shows counts, also in the nights in which it is put forward or back: an hour that comes twice is open
twice, one that is left out opens nothing. A range that ends before it begins goes on into the next morning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES: Final = 24 * 60
_WEEK_MINUTES: Final = 7 * _DAY_MINUTES

_SEARCHED_MINUTES: Final = 2 * _WEEK_MINUTES + _DAY_MINUTES
"""A range of minutes that a clock put forward has skipped comes again a week later."""

_RANGE: Final = re.compile(r"(?:([a-z,\- ]+) )?\s*(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)")


@dataclass(frozen=True, slots=True)
class WeeklyHours:
    """Which minutes of a week are open."""

    open_minutes: bytes
    """One byte a minute from Monday 00:00 on, 1 for open; empty is always open."""

    def open_at(self, local: datetime) -> bool:
        """Whether a clock on the wall that shows `local` is within the hours."""
        if not self.open_minutes:
            return True
        return bool(self.open_minutes[local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute])

    def opens_after(self, seconds: float, local: Callable[[float], datetime]) -> float | None:
        """The first open moment after a closed one, both in seconds since the epoch; `local` shows one on the wall."""
        first = int(seconds // 60) + 1
        minutes = range(first, first + _SEARCHED_MINUTES)
        return next((60.0 * minute for minute in minutes if self.open_at(local(60.0 * minute))), None)


@lru_cache(maxsize=4)
def weekly_hours(ranges: tuple[str, ...]) -> WeeklyHours:
    """What `ranges` say together. Raises `ValueError` with a sentence that names the wrong one."""
    if not ranges:
        return WeeklyHours(b"")
    minutes = bytearray(_WEEK_MINUTES)
    for text in ranges:
        days, begin, end = _parsed(text)
        for day in days:
            for minute in range(day * _DAY_MINUTES + begin, day * _DAY_MINUTES + end):
                minutes[minute % _WEEK_MINUTES] = 1
    return WeeklyHours(bytes(minutes))


def _parsed(text: str) -> tuple[Sequence[int], int, int]:
    """Days, and the minutes of the day from which and to which: the latter may lie in the next day."""
    matched = _RANGE.fullmatch(text.strip().lower())
    if matched is None:
        raise ValueError(f"{text!r} is no range of hours: write it like 'mon-fri 18:00-08:00' or '22:00-06:00'")
    days, *clock = matched.groups()
    begin, end = _minute(text, *clock[:2]), _minute(text, *clock[2:])
    if begin in {end, _DAY_MINUTES}:
        raise ValueError(f"{text!r} holds no time: for whole days write '00:00-24:00'")
    return (
        list(range(7)) if days is None else list(_days(text, days)),
        begin,
        end if end > begin else end + _DAY_MINUTES,
    )


def _minute(text: str, hours: str, minutes: str) -> int:
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > _DAY_MINUTES:
        raise ValueError(f"{text!r} names {hours}:{minutes}, which no clock shows: hours go from 00:00 to 24:00")
    return minute


def _days(text: str, days: str) -> Iterator[int]:
    for part in days.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        for name in (first, last or first):
            if name not in _DAYS:
                raise ValueError(f"{text!r} names the day {name!r}: days are {', '.join(_DAYS)}")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        for day in range(begin, end + 1 + (7 if end < begin else 0)):
            yield day % 7
