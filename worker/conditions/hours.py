"""Work within the hours of the week that the volunteer has named (`when.hours`)."""

from __future__ import annotations

from worker.conditions.hindrance import Hindrance, IdleReason
from worker.conditions.wall_clock import WallClock, when
from worker.conditions.weekly_hours import WeeklyHours, weekly_hours
from worker.settings import WorkerSettings


class Hours:
    """See `Rule`. The search for the next open minute is made once for each closed stretch."""

    def __init__(self, wall: WallClock) -> None:
        self._wall = wall
        self._searched: tuple[WeeklyHours, float, float | None] | None = None
        """Hours, from when, and what was found; in seconds since the epoch."""

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        hours = weekly_hours(settings.when.hours)
        seconds = self._wall.now()
        now = self._wall.local(seconds)
        if hours.open_at(now):
            return None
        opens = self._opens(hours, seconds)
        until = None if opens is None else self._wall.local(opens)
        again = "" if until is None else f": it works again at {when(until, now)}"
        return Hindrance(IdleReason.HOURS, f"it is outside the hours of when.hours{again}", until)

    def _opens(self, hours: WeeklyHours, seconds: float) -> float | None:
        if self._searched is not None:
            searched, since, opens = self._searched
            if searched == hours and since <= seconds and (opens is None or seconds < opens):
                return opens
        opens = hours.opens_after(seconds, self._wall.local)
        self._searched = (hours, seconds, opens)
        return opens
