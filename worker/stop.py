"""How a worker is asked to stop, and how everything that waits hears of it.

SIGINT or SIGTERM once: waits end, the current step is finished, what was trained is handed in or the lease released.
Twice: the process is gone at once, with the shell's code for that signal.

A handler runs between any two bytecodes of the main thread, which may hold an event's lock at that moment; so the
handler only puts into a `SimpleQueue`, whose `put` is reentrant, and a thread of its own sets the events.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A wait was cut short, because the worker stops or the lease ends."""


class StopSignal:
    """One request to stop, heard by every subscribed event."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._subscribers: list[threading.Event] = []
        self._received: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._num_received = 0

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.event.is_set()

    def request(self) -> None:
        """Ask to stop; repeating it changes nothing."""
        with self._lock:
            self.event.set()
            for subscriber in self._subscribers:
                subscriber.set()

    def raise_if_requested(self) -> None:
        """Raise `Interrupted` if it is time to stop."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def also_sets(self, event: threading.Event) -> Iterator[None]:
        """Within, a request to stop sets `event` too; at once if there was one before."""
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
    def on_signals(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM request to stop. Only on the main thread."""
        relay = threading.Thread(target=self._relay, name="stop-signal", daemon=True)
        relay.start()
        old = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            self._received.put(False)
            relay.join()

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- the signal module's signature
        self._num_received += 1
        if self._num_received > 1:
            os._exit(128 + number)
        self._received.put(True)

    def _relay(self) -> None:
        while self._received.get():
            self.request()
