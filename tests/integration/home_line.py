"""A volunteer's line to a coordinator on this machine: it may be slow, or break off in the middle of a download."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from diffusion_at_home.clock import SystemClock
from worker.pacer import Pacer

HOST = "127.0.1.1"
"""Reaches the coordinator over the line, at its own ports of 127.0.0.1."""

_PIECE_BYTES = 4096
_BUFFER_BYTES = 16_384
"""Of the line: what waits, waits at its sender."""


class HomeLine:
    """See the module. Rates are those of all connections together."""

    def __init__(self, *, up: float, down: float, cut_down_after: float) -> None:
        """`up` and `down` in bytes a second; the connection that brings byte `cut_down_after` down ends there."""
        self.down_bytes = 0
        """That have arrived, headers included."""
        self._ended = threading.Event()
        self._up = Pacer(up, SystemClock(), self._ended.wait)
        self._down = Pacer(down, SystemClock(), self._ended.wait)
        self._cut_down_after = cut_down_after
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def open(self, port: int) -> None:
        """Carry what comes to `port`."""
        listener = socket.socket()
        self._sockets.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)  # its connections have the same
        listener.bind((HOST, port))
        listener.listen()
        self._start(self._accept, listener, port)

    def close(self) -> None:
        self._ended.set()
        for opened in self._sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for opened in self._sockets:
            opened.close()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="home line")  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, port: int) -> None:
        with suppress(OSError):  # it is closed
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                self._sockets += [near, far]
                self._start(self._carry_up, near, far)
                self._start(self._carry_down, far, near)

    def _carry_up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while piece := near.recv(_PIECE_BYTES):
                self._up.passes(len(piece))
                far.sendall(piece)
            far.shutdown(socket.SHUT_WR)

    def _carry_down(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while piece := far.recv(_PIECE_BYTES):
                self._down.passes(len(piece))
                near.sendall(piece)
                self.down_bytes += len(piece)
                if self.down_bytes >= self._cut_down_after:
                    self._cut_down_after = math.inf
                    break
            near.shutdown(socket.SHUT_RDWR)
            far.shutdown(socket.SHUT_RDWR)


@contextmanager
def home_line(
    ports: Sequence[int], *, up: float = math.inf, down: float = math.inf, cut_down_after: float = math.inf
) -> Iterator[HomeLine]:
    """Within, `HOST` is the coordinator."""
    line = HomeLine(up=up, down=down, cut_down_after=cut_down_after)
    try:
        for port in ports:
            line.open(port)
        yield line
    finally:
        line.close()
