"""A line between workers and a coordinator on this machine, and all that can be wrong with it, switched by the test."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto

HOST = "127.0.2.1"
"""Reaches the coordinator over the line, at its own ports of 127.0.0.1."""

LOGIN_PAGE = b"<html>Welcome to our hotel! Please log in.</html>"

_PIECE_BYTES = 16_384
_LOOK_SECONDS = 0.02

_GOOD_BYTES = (500, 20_000)
"""What passes before a connection is reset or scrambled."""


class Fault(Enum):
    """What is wrong."""

    NOTHING = auto()
    HOLE = auto()
    """Connections stay open and nothing passes; what was sent meanwhile arrives when it is over."""
    REFUSE = auto()
    """Nobody listens, and what was connected is reset."""
    RESET = auto()
    """Every connection is reset after so many bytes as chance has it."""
    SCRAMBLE = auto()
    """What comes down is now and then cut, turned around or has wrong bytes in it."""
    GARBAGE = auto()
    """Something else answers: pages, other JSON, half of it, redirects in circles, noise."""


class BadLine:
    """Carries `ports`; `fault` may be changed at any time and `seed` decides what it does."""

    def __init__(self, ports: Sequence[int], seed: int, host: str = HOST) -> None:
        self.num_faults = 0
        """Connections that were reset, scrambled or answered with garbage so far."""
        self._host = host
        self._ports = ports
        self._chance = random.Random(seed)
        self._fault = Fault.NOTHING
        self._ended = threading.Event()
        self._listeners: list[socket.socket] = []
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        before, self._fault = self._fault, fault
        if fault is Fault.REFUSE:
            self._close_listeners()
        elif before is Fault.REFUSE:
            self.open()
        if fault in {Fault.REFUSE, Fault.GARBAGE}:
            self._reset_all()

    def open(self) -> None:
        for port in self._ports:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, port))
            listener.listen()
            self._listeners.append(listener)
            self._start(self._accept, listener, port)

    def close(self) -> None:
        self._ended.set()
        self._close_listeners()
        self._reset_all()
        for thread in self._threads:
            thread.join()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes its thread
            listener.close()
        self._listeners.clear()

    def _reset_all(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.reset()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="bad line", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # it is closed
                return
            self._start(self._serve, near, port)

    def _serve(self, near: socket.socket, port: int) -> None:
        self._wait_in_hole()
        if self._fault is Fault.GARBAGE:
            self._answer_garbage(near)
            return
        try:
            far = socket.create_connection(("127.0.0.1", port))
        except OSError:  # nor does anybody listen behind the line
            _reset(near)
            return
        connection = _Connection(near, far, self._draw(*_GOOD_BYTES))
        with self._lock:
            self._connections.add(connection)
        self._start(self._carry, connection, near, far, False)
        self._start(self._carry, connection, far, near, True)

    def _carry(self, connection: _Connection, source: socket.socket, sink: socket.socket, down: bool) -> None:
        with suppress(OSError, ValueError):  # it is reset
            while piece := self._receive(source):
                self._wait_in_hole()
                if self._fault is Fault.RESET and connection.is_used_up(len(piece)):
                    sink.sendall(piece[: len(piece) // 2])
                    self.num_faults += 1
                    break
                if self._fault is Fault.SCRAMBLE and down and connection.is_used_up(len(piece)):
                    connection.bytes_left = self._draw(*_GOOD_BYTES)
                    self.num_faults += 1
                    if not (piece := self._scrambled(piece)):
                        break
                sink.sendall(piece)
        self._wait_in_hole()  # nor does anybody hear that the other has hung up
        connection.reset()
        with self._lock:
            self._connections.discard(connection)

    def _wait_in_hole(self) -> None:
        while self._fault is Fault.HOLE and not self._ended.wait(_LOOK_SECONDS):
            pass

    def _receive(self, source: socket.socket) -> bytes:
        while not self._ended.is_set():
            if select.select([source], [], [], 0.2)[0]:
                return source.recv(_PIECE_BYTES)
        return b""

    def _scrambled(self, piece: bytes) -> bytes:
        """Nothing stands for a cut."""
        middle = self._draw(0, len(piece))
        which = self._draw(0, 3)
        if which == 0:
            return b""
        if which == 1:
            return piece[middle:] + piece[:middle]
        return piece[:middle] + bytes(byte ^ 0x55 for byte in piece[middle : middle + 64]) + piece[middle + 64 :]

    def _answer_garbage(self, near: socket.socket) -> None:
        with suppress(OSError):
            near.settimeout(2)
            near.recv(_PIECE_BYTES)
            near.sendall(_GARBAGE[self._draw(0, len(_GARBAGE))])
            self.num_faults += 1
        near.close()

    def _draw(self, start: int, stop: int) -> int:
        with self._lock:
            return self._chance.randrange(start, max(stop, start + 1))


class _Connection:
    def __init__(self, near: socket.socket, far: socket.socket, bytes_left: int) -> None:
        self.bytes_left = bytes_left
        """Until what is to happen to it happens."""
        self._near = near
        self._far = far

    def is_used_up(self, num_bytes: int) -> bool:
        self.bytes_left -= num_bytes
        return self.bytes_left < 0

    def reset(self) -> None:
        _reset(self._near)
        _reset(self._far)


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
    end.close()


def _page(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


_GARBAGE = (
    _page("200 OK", LOGIN_PAGE, "Content-Type: text/html"),
    _page("200 OK", b'{"answer": 42}', "Content-Type: application/json"),
    _page("200 OK", b'{"run_id": "tiny-0', "Content-Type: application/json"),
    _page("200 OK", b"\x1f\x8b not gzip at all", "Content-Encoding: gzip"),
    _page("302 Found", b"", "Location: /run.json"),
    _page("302 Found", b"", "Location: http://["),
    _page("302 Found", b"", "Location: gopher://hotel/"),
    _page("401 Unauthorized", LOGIN_PAGE),
    _page("404 Not Found", LOGIN_PAGE),
    _page("511 Network Authentication Required", LOGIN_PAGE),
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + LOGIN_PAGE,
    b"SSH-2.0-OpenSSH_9.2\r\n",
    bytes(range(256)),
    # an HTTP/2 settings frame, as a server of another protocol over it would send
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + 8 * b"\x00",
)


@contextmanager
def bad_line(ports: Sequence[int], seed: int = 0) -> Iterator[BadLine]:
    """Within, `HOST` is the coordinator, for as long as the line is good."""
    line = BadLine(ports, seed)
    line.open()
    try:
        yield line
    finally:
        line.close()
