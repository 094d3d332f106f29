import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from diffusion_at_home.errors import Busy, LeaseLost, RetryCall, Unreachable
from worker.backoff import Backoff
from worker.patience import Patience
from worker.stop import Interrupted


class Reasons:
    """Collects why was waited, and may interrupt the wait."""

    def __init__(self, interrupt: threading.Event | None = None) -> None:
        self.heard: list[str] = []
        self._interrupt = interrupt

    @contextmanager
    def __call__(self, why: RetryCall) -> Iterator[None]:
        self.heard.append(str(why))
        if self._interrupt is not None:
            self._interrupt.set()
        yield


class Failing:
    """Raises each of `failures` once, then returns 7."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.num_calls = 0

    def __call__(self) -> int:
        self.num_calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return 7


def test_busy_is_asked_again_when_it_said_and_tells_why() -> None:
    reasons = Reasons()
    call = Failing(Busy("disk full", timedelta(0)), Busy("too many calls", timedelta(0)))
    assert Patience(Backoff(1, 300), reasons).call(call, threading.Event()) == 7
    assert reasons.heard == ["disk full", "too many calls"]


def test_interrupt_ends_the_wait_after_one_attempt() -> None:
    interrupt = threading.Event()
    call = Failing(Unreachable("nobody answers"))
    with pytest.raises(Interrupted):
        Patience(Backoff(1, 300), Reasons(interrupt)).call(call, interrupt)
    assert call.num_calls == 1


def test_interrupted_before_it_still_makes_one_attempt() -> None:
    interrupt = threading.Event()
    interrupt.set()
    assert Patience(Backoff(1, 300), Reasons()).call(Failing(), interrupt) == 7


def test_other_failures_are_not_repeated() -> None:
    call = Failing(LeaseLost("gone", "round_closed"))
    with pytest.raises(LeaseLost, match="gone"):
        Patience(Backoff(1, 300), Reasons()).call(call, threading.Event())
    assert call.num_calls == 1
