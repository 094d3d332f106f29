"""Sends what is to be told from a thread of its own, so that neither the loop nor a stop ever waits for a webhook.

What waits is merged: a message has all that has happened since the last one, of each thing the latest. A few go at once, then
one a minute: a problem that flickers is not a flood. A webhook that does not answer is tried for hours, with growing pauses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from coordinator.alerts.alert import Alert
from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import ConfigError, RetryCall

_MOST_WAITING: Final = 50
_AT_ONCE: Final = 5
_PER_SECOND: Final = 1 / 60
_ATTEMPTS: Final = 40
"""The last pauses are five minutes on average: some three hours."""

_log = events.logger("coordinator")


class Outbox:
    """What waits to be sent; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Alert] = {}
        self._lost = 0

    def add(self, alerts: Sequence[Alert]) -> None:
        """They wait, each instead of an older one about the same."""
        with self._lock:
            for alert in alerts:
                self._waiting.pop(alert.key, None)
                self._waiting[alert.key] = alert
            while len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
                self._lost += 1

    def waiting(self) -> tuple[list[Alert], int]:
        """All that wait, the oldest first, and how many were too many."""
        with self._lock:
            return list(self._waiting.values()), self._lost

    def sent(self, alerts: Sequence[Alert], lost: int) -> None:
        """They are told; what came meanwhile still waits."""
        with self._lock:
            for alert in alerts:
                if self._waiting.get(alert.key) is alert:
                    del self._waiting[alert.key]
            self._lost -= lost


class Pace:
    """Some at once, then so many a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left, self._since = float(_AT_ONCE), clock.now()

    def wait_seconds(self) -> float:
        """Until one more may go."""
        now = self._clock.now()
        self._left = min(_AT_ONCE, self._left + (now - self._since) * _PER_SECOND)
        self._since = now
        return max(0.0, (1 - self._left) / _PER_SECOND)

    def went(self) -> None:
        """One has."""
        self._left -= 1


class Messenger:
    """One thread, which ends with the process at the latest."""

    def __init__(
        self, *, send: Callable[[Sequence[Alert], int], None], outcome: Callable[[str], None], clock: Clock
    ) -> None:
        """`send` tells of alerts and of how many were lost, and raises as `post` does; `outcome` is told why it is no use."""
        self._send = send
        self._outcome = outcome
        self._outbox = Outbox()
        self._pace = Pace(clock)
        self._stop = threading.Event()
        self._news = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Send them, some time."""
        if alerts:
            self._outbox.add(alerts)
            self._idle.clear()
            self._news.set()

    def stop(self, within_seconds: float) -> None:
        """End; what is on its way has so long."""
        self._idle.wait(within_seconds)
        self._stop.set()
        self._news.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._news.wait()
            self._news.clear()
            if not self._outbox.waiting()[0]:
                self._idle.set()
            elif not self._stop.wait(self._pace.wait_seconds()):
                self._deliver()
                self._news.set()  # look again

    def _deliver(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type(RetryCall),
            wait=wait_random_exponential(multiplier=2, max=600),
            stop=stop_after_attempt(_ATTEMPTS) | stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        try:
            retrying(self._attempt)
        except (RetryCall, ConfigError) as error:
            if not self._stop.is_set():
                alerts, lost = self._outbox.waiting()
                self._outbox.sent(alerts, lost)
                self._outcome(str(error))
                _log.error("alerts_lost", alerts=len(alerts), reason=str(error))
        else:
            self._outcome("")
        self._pace.went()

    def _attempt(self) -> None:
        alerts, lost = self._outbox.waiting()  # anew each time: what has happened meanwhile is told too
        self._send(alerts, lost)
        self._outbox.sent(alerts, lost)
        _log.info("alerts_sent", alerts=len(alerts))
