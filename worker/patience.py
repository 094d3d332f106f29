"""Trying again, forever: a coordinator that is down comes back. An event ends it, and whatever gets through shortens it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from diffusion_at_home.errors import Busy, RetryCall, Unreachable
from worker.backoff import Backoff
from worker.stop import Interrupted

_LOOK_SECONDS: Final = 0.25
"""How soon a wait notices that the line is back."""

ResultT = TypeVar("ResultT")


class Patience:
    """Repeats a call that fails with `RetryCall` until it succeeds, fails otherwise, or a wait is interrupted.

    Shared by all calls of a process: what one of them hears from the coordinator ends the waits of the others.
    """

    def __init__(self, backoff: Backoff, waiting: Callable[[RetryCall], AbstractContextManager[None]]) -> None:
        """Each wait happens within `waiting(why)`, on the thread that calls."""
        self._backoff = backoff
        self._waiting = waiting
        self._num_answers = 0

    def answered(self) -> None:
        """The coordinator has answered, whoever asked it: nobody waits on because it was silent."""
        self._num_answers += 1

    def call(self, attempt: Callable[[], ResultT], interrupt: threading.Event) -> ResultT:
        """The first result of `attempt`, which is made at least once; `Interrupted` as soon as a wait is cut short."""
        failures = 0
        while True:
            try:
                return attempt()
            except RetryCall as failure:
                why = failure
            failures = 0 if isinstance(why, Busy) else failures + 1
            with self._waiting(why):
                if self._wait(why, failures, interrupt):
                    failures = 0

    def _wait(self, why: RetryCall, failures: int, interrupt: threading.Event) -> bool:
        """Wait as long as `why` asks for; whether it ended early, as the coordinator has been heard of."""
        backoff = self._backoff
        seconds = backoff.named_seconds(why.retry_after) if isinstance(why, Busy) else backoff.seconds(failures)
        answers, end = self._num_answers, time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if interrupt.wait(max(0.0, min(left, _LOOK_SECONDS))):
                raise Interrupted
            if left <= _LOOK_SECONDS:
                return False
            if isinstance(why, Unreachable) and self._num_answers != answers:
                return True
