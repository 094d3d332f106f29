import os
import signal
import threading

from worker.stop import StopSignal


def test_sigterm_once_is_a_request_that_every_subscriber_hears() -> None:
    stop, lease_over = StopSignal(), threading.Event()
    with stop.on_signals(), stop.also_sets(lease_over):
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
    with StopSignal().on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
