import os
import signal
import threading

import pytest

from worker.stop import Interrupted, StopSignal, on_signals


def test_sigterm_once_is_a_request_that_every_subscriber_hears() -> None:
    stop, lease_over = StopSignal(), threading.Event()
    with on_signals(stop.request), stop.also_sets(lease_over):
        os.kill(os.getpid(), signal.SIGTERM)
        assert lease_over.wait(10)
        assert stop.requested


def test_who_subscribes_after_the_request_hears_it_at_once() -> None:
    stop, late = StopSignal(), threading.Event()
    stop.request()
    with stop.also_sets(late):
        assert late.is_set()


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with on_signals(StopSignal().request):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_finishing_lets_the_lease_go_on_and_can_be_taken_back() -> None:
    stop, lease_over = StopSignal(), threading.Event()
    with stop.also_sets(lease_over):
        stop.finish()
        assert (stop.no_more.is_set(), stop.requested, lease_over.is_set()) == (True, False, False)
        stop.raise_if_requested()
        stop.go_on()
        assert not stop.no_more.is_set()


def test_a_request_to_end_includes_finishing_and_is_never_taken_back() -> None:
    stop = StopSignal()
    stop.request()
    stop.go_on()
    assert (stop.no_more.is_set(), stop.requested, stop.at_once.is_set()) == (True, True, False)
    stop.request(at_once=True)
    assert stop.at_once.is_set()
    with pytest.raises(Interrupted):
        stop.raise_if_requested()
