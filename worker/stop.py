"""How work is asked to end, and how everything that waits hears of it. One `StopSignal` is one stretch of work.

It is asked in three degrees, each of which includes those before: no further lease is taken; waits end, the current step is
finished, and what was trained is handed in or the lease released; nothing more is handed in.

SIGINT or SIGTERM once asks the process for the second degree. Twice: the process is gone at once, with the shell's code for
that signal. A handler runs between any two bytecodes of the main thread, which may hold an event's lock at that moment; so
the handler only puts into a `SimpleQueue`, whose `put` is reentrant, and a thread of its own does what was asked.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A wait was cut short, because the worker stops or the lease ends."""


class StopSignal:
    """One request to end, heard by every subscribed event. Nothing but the wish to take no further lease is taken back."""

    def __init__(self) -> None:
        self.no_more = threading.Event()
        """No further lease is taken. What waits while none is held waits for this."""
        self.event = threading.Event()
        """What is trained is handed in."""
        self.at_once = threading.Event()
        """What is trained is handed in no more: the lease is given back; what is being sent stays for the next start."""
        self._lock = threading.Lock()
        self._subscribers: list[threading.Event] = []

    @property
    def requested(self) -> bool:
        """Whether to end before the lease does."""
        return self.event.is_set()

    def finish(self) -> None:
        """Ask to take no further lease."""
        self.no_more.set()

    def go_on(self) -> None:
        """Take `finish` back, unless more was asked since."""
        with self._lock:
            if not self.event.is_set():
                self.no_more.clear()

    def request(self, *, at_once: bool = False) -> None:
        """Ask to end, `at_once` without handing in; repeating it changes nothing."""
        with self._lock:
            if at_once:
                self.at_once.set()
            self.event.set()
            self.no_more.set()
            for subscriber in self._subscribers:
                subscriber.set()

    def raise_if_requested(self) -> None:
        """Raise `Interrupted` if it is time to end."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def also_sets(self, event: threading.Event) -> Iterator[None]:
        """Within, a request to end sets `event` too; at once if there was one before."""
        with self._lock:
            self._subscribers.append(event)
            if self.event.is_set():
                event.set()
        try:
            yield
        finally:
            with self._lock:
                self._subscribers.remove(event)


@contextmanager
def on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within, the first SIGINT or SIGTERM calls `stop`, on a thread of its own. Only on the main thread."""
    received: queue.SimpleQueue[bool] = queue.SimpleQueue()
    num_received = 0

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- the signal module's signature
        nonlocal num_received
        num_received += 1
        if num_received > 1:
            os._exit(128 + number)
        received.put(True)

    def relay() -> None:
        while received.get():
            stop()

    thread = threading.Thread(target=relay, name="stop-signal", daemon=True)
    thread.start()
    old = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        received.put(False)
        thread.join()
