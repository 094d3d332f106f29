"""Whether this worker may work now, and if not, why: what its owner wants, and what the owner's rules say of the machine.

One thread asks the conditions each second (`watch`). The main thread works a stretch at a time, within `stretch`, whose
signal is set when the permission ends, and rests in `wait` until there is one. Wishes come from any thread. The owner's own
pause is named before any other reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, Protocol

from diffusion_at_home import events
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.control.pause_file import PauseFile
from worker.control.wishes import Wish, Wishes
from worker.settings import WorkerSettings
from worker.stop import StopSignal

_LOOK_SECONDS: Final = 1.0

_log = events.logger("worker")


class Conditions(Protocol):
    """What the owner's rules say of the machine now; never called from two threads at once."""

    def hindrance(self) -> Hindrance | None:
        """What keeps the worker from working, if anything does; asked about once a second."""

    def reload(self, settings: WorkerSettings) -> None:
        """Go by these rules from now on."""


class Unhindered:
    """No rules."""

    def hindrance(self) -> Hindrance | None:
        """See `Conditions`."""
        return None

    def reload(self, settings: WorkerSettings) -> None:
        """See `Conditions`."""


class Permission:
    """The one owner of the wishes; but for `wait` and `stretch` it may be used from any thread."""

    def __init__(self, file: PauseFile, conditions: Conditions, now: Callable[[], datetime]) -> None:
        """`now` is the wall clock, aware. Raises `ConfigError` if the file was damaged."""
        self._file = file
        self._conditions = conditions
        self._now = now
        self._conditions_lock = threading.Lock()
        self._changed = threading.Condition()
        self._wishes = Wishes(file.read())
        self._hindrance: Hindrance | None = None
        self._looked = False
        self._stretch: StopSignal | None = None

    def pause(self, until: datetime | None, *, at_once: bool = False) -> None:
        """Rest, until `until` or `resume`, also after a restart; `at_once` hands nothing in before. Raises `StorageError`."""
        with self._changed:
            self._remember(self._wishes.paused(until))
            self._tell(at_once=at_once)

    def resume(self) -> None:
        """Work, unless the conditions hinder it. Raises `StorageError`."""
        with self._changed:
            self._remember(self._wishes.resumed())
            self._tell()

    def finish(self) -> None:
        """End the worker after the lease it holds."""
        with self._changed:
            self._wishes = self._wishes.finish()
            self._tell()

    def stop(self, *, at_once: bool = False) -> None:
        """End the worker; `at_once` hands nothing in before."""
        with self._changed:
            self._wishes = self._wishes.stop()
            self._tell(at_once=at_once)

    def reload(self, settings: WorkerSettings) -> None:
        """Go by the rules of `settings` from now on."""
        with self._conditions_lock:
            self._conditions.reload(settings)
        self.look()

    @property
    def wish(self) -> Wish:
        """What its owner wants."""
        return self._wishes.wish(self._now())

    @property
    def paused_until(self) -> datetime | None:
        """When the owner's pause ends; None also if there is none."""
        pause = self._wishes.at(self._now()).pause
        return None if pause is None else pause.until

    def watch(self, ended: threading.Event) -> None:
        """Look each second until `ended` is set; belongs on a thread of its own."""
        self.look()
        while not ended.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Ask the conditions, and the wall clock whether a pause is over."""
        with self._conditions_lock:
            hindrance = self._conditions.hindrance()
        with self._changed:
            wishes = self._wishes.at(self._now())
            if wishes != self._wishes:
                self._remember(wishes)
            self._hindrance, self._looked = hindrance, True
            self._tell()

    @contextmanager
    def stretch(self) -> Iterator[StopSignal]:
        """Within, one stretch of work; the signal says when it must end."""
        signal = StopSignal()
        with self._changed:
            self._stretch = signal
            self._tell()
        try:
            yield signal
        finally:
            with self._changed:
                self._stretch = None

    def wait(self, resting: Callable[[Hindrance], None]) -> bool:
        """Until there is work to do; false if the worker is to leave instead. `resting` is told each reason not to work."""
        told: Hindrance | None = None
        while True:
            with self._changed:
                while not (self._wishes.leaving or self._has_news(told)):
                    self._changed.wait()
                leaving, reason = self._wishes.leaving, self._reason()
            if leaving or reason is None:
                return not leaving
            if told is None or reason.reason is not told.reason:
                _log.info(
                    "resting",
                    reason=reason.reason.value,
                    sentence=reason.sentence,
                    until=reason.until and reason.until.isoformat(),
                )
            resting(reason)
            told = reason

    def _has_news(self, told: Hindrance | None) -> bool:
        reason = self._reason()
        return self._looked and (reason is None or reason != told)

    def _reason(self) -> Hindrance | None:
        pause = self._wishes.at(self._now()).pause
        if pause is None:
            return self._hindrance
        if pause.until is None:
            return Hindrance(IdleReason.PAUSED, "you have paused it: dah worker resume goes on", None)
        until = pause.until.astimezone()
        sentence = f"you have paused it until {until:%Y-%m-%d %H:%M}: dah worker resume goes on at once"
        return Hindrance(IdleReason.PAUSED_FOR, sentence, until)

    def _remember(self, wishes: Wishes) -> None:
        """The file first: a wish that cannot be kept is not heard."""
        if wishes.pause != self._wishes.pause:
            self._file.write(wishes.pause)
        self._wishes = wishes

    def _tell(self, *, at_once: bool = False) -> None:
        """Tell the stretch of work, if there is one, and whoever waits."""
        if self._stretch is not None:
            if self._wishes.stopping or self._reason() is not None:
                self._stretch.request(at_once=at_once)
            elif self._wishes.finishing:
                self._stretch.finish()
            else:
                self._stretch.go_on()
        self._changed.notify_all()
