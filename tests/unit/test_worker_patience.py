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


def test_answer_to_somebody_else_ends_the_wait_for_who_was_silent() -> None:
    waiting = threading.Event()

    @contextmanager
    def told(_: RetryCall) -> Iterator[None]:
        waiting.set()
        yield

    patience = Patience(Backoff(10**6, 10**6, lambda: 1.0), told)
    heart = threading.Thread(target=lambda: (waiting.wait(), patience.answered()))
    heart.start()
    assert patience.call(Failing(Unreachable("nobody answers")), threading.Event()) == 7
    heart.join()


@pytest.mark.parametrize("failure", [Busy("too many", timedelta(seconds=10**6)), RetryCall("a fault of its own")])
def test_answer_to_somebody_else_shortens_no_wait_that_was_asked_for(failure: RetryCall) -> None:
    interrupt = threading.Event()

    @contextmanager
    def told(_: RetryCall) -> Iterator[None]:
        patience.answered()
        threading.Timer(0.6, interrupt.set).start()
        yield

    patience = Patience(Backoff(10**6, 10**6, lambda: 1.0), told)
    call = Failing(failure)
    with pytest.raises(Interrupted):
        patience.call(call, interrupt)
    assert call.num_calls == 1


def test_first_failure_after_an_answer_is_a_first_one_again() -> None:
    drawn: list[float] = []

    class Noted(Backoff):
        def seconds(self, failures: int) -> float:
            drawn.append(failures)
            return 0.3 if failures > 1 else 0.0

    @contextmanager
    def told(_: RetryCall) -> Iterator[None]:
        threading.Timer(0.1, patience.answered).start()
        yield

    patience = Patience(Noted(1, 1), told)
    assert patience.call(Failing(*[Unreachable("nobody")] * 4), threading.Event()) == 7
    assert drawn == [1, 2, 1, 2]
