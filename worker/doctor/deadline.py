"""Time that runs out: whatever the other side does, or does not do, the doctor goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import TypeVar

from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import Unreachable

T = TypeVar("T")


class Deadline:
    """What is left of a time, for several pieces of work after one another."""

    def __init__(self, time: timedelta, clock: Clock) -> None:
        self._clock = clock
        self._end = clock.now() + time.total_seconds()

    @property
    def left_seconds(self) -> float:
        """Until it is over; never less than 0."""
        return max(0.0, self._end - self._clock.now())

    def within(self, most: timedelta, work: Callable[[], T]) -> T:
        """What `work` returns or raises; `Unreachable` if that takes longer than `most`, or than what is left.

        Looking up a name, or an answer that comes a byte a second, stops at no time-out of a library: the work has a
        thread of its own, which is left behind then, and ends with the process at the latest.
        """
        outcome: Future[T] = Future()
        seconds = min(most.total_seconds(), self.left_seconds)
        threading.Thread(target=_work, args=(work, outcome), name="doctor", daemon=True).start()
        try:
            return outcome.result(timeout=seconds)
        except TimeoutError:
            if outcome.done():
                raise
        raise Unreachable(f"no answer within {seconds:.0f} s")


def _work(work: Callable[[], T], outcome: Future[T]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001 -- raised again where it is waited for
        outcome.set_exception(error)
