"""May the worker work now? Every rule is asked in a fixed order, and the first that hinders is the reason.

A sensor that fails, or shows nothing, hinders nothing: that is logged once, and again after it has worked in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from worker.conditions.battery import OnBattery
from worker.conditions.caps import Caps
from worker.conditions.disk import DiskReserve
from worker.conditions.gpus_off import GpusOff
from worker.conditions.heat import Heat
from worker.conditions.hindrance import Hindrance
from worker.conditions.hours import Hours
from worker.conditions.idle import OnlyWhenIdle
from worker.conditions.power import Power
from worker.conditions.programs import Programs
from worker.conditions.rule import Rule
from worker.conditions.seldom import Seldom
from worker.conditions.sensors import Sensors
from worker.conditions.traffic import Traffic
from worker.conditions.wall_clock import WallClock
from worker.settings import WorkerSettings

_CARDS_SECONDS: Final = 2.0
"""Between two readings of the cards."""

_log = events.logger("worker")


class Conditions:
    """All that the settings make work depend on. For one thread; `reload` may be called from another."""

    def __init__(
        self, settings: WorkerSettings, sensors: Sensors, traffic: Traffic, clock: Clock, wall: WallClock
    ) -> None:
        cards = Seldom(sensors.cards, _CARDS_SECONDS, clock)
        self._settings = settings
        self._traffic = traffic
        self._unknown: dict[str, str] = {}
        self._rules: Sequence[Rule] = (
            Hours(wall),
            OnlyWhenIdle(sensors.input, clock, wall),
            OnBattery(sensors.battery, clock),
            Programs(sensors.programs, clock),
            Heat(cards),
            Power(cards, clock),
            Caps(traffic, wall),
            DiskReserve(sensors.disk, clock),
            GpusOff(cards),
        )
        self._limit()

    def reload(self, settings: WorkerSettings) -> None:
        """Go by `settings` from now on."""
        self._settings = settings
        self._limit()

    def hindrance(self) -> Hindrance | None:
        """Why not to work now, None if nothing hinders. To be asked about once a second; never raises."""
        settings = self._settings
        self._guarded("Traffic", self._traffic.keep)
        asked = (self._guarded(type(rule).__name__, partial(rule.hindrance, settings)) for rule in self._rules)
        return next(filter(None, asked), None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the settings ask about and this machine does not show: sentences for the owner."""
        return tuple(self._unknown.values())

    def _limit(self) -> None:
        limits = self._settings.limits
        self._traffic.limit(limits.up_gib_per_month, limits.down_gib_per_month)

    def _guarded(self, name: str, ask: Callable[[], Hindrance | None]) -> Hindrance | None:
        try:
            hindrance = ask()
        except Exception as error:  # noqa: BLE001 -- drivers, desktops and disks fail in ways of their own: none stops the work
            if name not in self._unknown:
                self._unknown[name] = str(error) or type(error).__name__
                _log.warning("condition_unknown", rule=name, reason=self._unknown[name])
            return None
        self._unknown.pop(name, None)
        return hindrance
