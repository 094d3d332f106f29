"""Keep to the caps on a month's bytes (`limits.up_gib_per_month`, `limits.down_gib_per_month`)."""

from __future__ import annotations

from worker.conditions.hindrance import Hindrance, IdleReason
from worker.conditions.traffic import Traffic
from worker.conditions.wall_clock import WallClock, next_month
from worker.settings import WorkerSettings


class Caps:
    """See `Rule`. Nothing is trained that could not be handed in."""

    def __init__(self, traffic: Traffic, wall: WallClock) -> None:
        self._traffic = traffic
        self._wall = wall

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        limits = settings.limits
        if limits.up_gib_per_month == limits.down_gib_per_month == 0:
            return None
        for meter, reason in ((self._traffic.up, IdleReason.UP_CAP), (self._traffic.down, IdleReason.DOWN_CAP)):
            why = meter.why_full()
            if why is not None:
                return Hindrance(reason, why, None if meter.is_hopeless else next_month(self._wall))
        return None
