"""Work for a share of the time (`limits.duty_percent`): rests between steps, so that a card is cooler and a fan slower.

Rests are as long as the steps ask, not minutes: heat follows the share, and a lease goes on. Steps are what is counted as
work, until their result is on the host; what a lease does besides takes little of a card.
"""

from __future__ import annotations

from collections.abc import Callable

from diffusion_at_home.clock import Clock
from worker.settings import WorkerSettings


class Throttle:
    """Rests after steps. For the thread that trains; settings may come from another."""

    def __init__(self, settings: WorkerSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._owed_seconds = 0.0
        self._begun_at = clock.now()

    def reload(self, settings: WorkerSettings) -> None:
        """Go by `settings` from the next step on."""
        self._settings = settings

    def before_step(self) -> None:
        """A step begins now."""
        self._begun_at = self._clock.now()

    def after_step(self, wait: Callable[[float], object]) -> None:
        """A step is done: rest for as long as it asks. `wait` sleeps so many seconds, or less if the lease is to end."""
        ended_at = self._clock.now()
        duty = self._settings.limits.duty_percent
        if duty == 100:
            self._owed_seconds = 0.0
            return
        self._owed_seconds += rest_seconds(ended_at - self._begun_at, duty)
        if self._owed_seconds > 0:
            wait(self._owed_seconds)
            self._owed_seconds -= self._clock.now() - ended_at  # waits end late, which the next one makes good


def rest_seconds(worked_seconds: float, duty_percent: int) -> float:
    """How long to rest after so much work, that work is `duty_percent` of both."""
    return worked_seconds * (100 / duty_percent - 1)
