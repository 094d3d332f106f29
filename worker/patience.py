"""Trying again: exponential with jitter and forever, as a coordinator that is down comes back; an event ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

import tenacity

from diffusion_at_home.errors import Busy, RetryCall
from worker.stop import Interrupted

_FIRST_SECONDS: Final = 1.0

ResultT = TypeVar("ResultT")


class Patience:
    """Repeats a call that fails with `RetryCall` until it succeeds, fails otherwise, or a wait is interrupted."""

    def __init__(self, ceiling_seconds: float, waiting: Callable[[RetryCall], AbstractContextManager[None]]) -> None:
        """Each wait happens within `waiting(why)`, on the thread that calls."""
        self._waiting = waiting
        self._backoff = tenacity.wait_exponential_jitter(
            initial=_FIRST_SECONDS, max=ceiling_seconds, jitter=_FIRST_SECONDS
        )

    def call(self, attempt: Callable[[], ResultT], interrupt: threading.Event) -> ResultT:
        """The first result of `attempt`, which is made at least once; `Interrupted` as soon as a wait is cut short."""
        failures: list[RetryCall] = []

        def sleep(seconds: float) -> None:
            with self._waiting(failures[-1]):
                if interrupt.wait(seconds):
                    raise Interrupted

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(RetryCall),
            wait=self._seconds,
            before_sleep=lambda state: failures.append(_failure(state)),
            sleep=sleep,
            reraise=True,
        )
        return retrying(attempt)

    def _seconds(self, state: tenacity.RetryCallState) -> float:
        failure = _failure(state)
        return failure.retry_after.total_seconds() if isinstance(failure, Busy) else self._backoff(state)


def _failure(state: tenacity.RetryCallState) -> RetryCall:
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, RetryCall)
    return failure
