"""A line that is cut once, in the middle of a download."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_PIECE_BYTES: Final = 1 << 18


class CutLine:
    """127.0.0.1:`port` reached through another port; its first connection ends after `cut_after_bytes` down, in a reset."""

    def __init__(self, port: int, cut_after_bytes: int) -> None:
        self.down_bytes = 0
        """Of all connections so far, headers included."""
        self._far = ("127.0.0.1", port)
        self._cut_after_bytes: int | None = cut_after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        """Where it is entered."""
        found: int = self._listener.getsockname()[1]
        return found

    def serve(self) -> None:
        """One connection after another, until it is closed."""
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                with near, socket.create_connection(self._far) as far, suppress(ConnectionError):
                    up = threading.Thread(target=_pump, args=(near, far), daemon=True)
                    up.start()
                    self._down(far, near)
                    near.shutdown(socket.SHUT_RDWR)
                    up.join()

    def close(self) -> None:
        """Turn everybody away."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _down(self, far: socket.socket, near: socket.socket) -> None:
        while piece := far.recv(_PIECE_BYTES):
            near.sendall(piece)
            self.down_bytes += len(piece)
            if self._cut_after_bytes is not None and self.down_bytes >= self._cut_after_bytes:
                self._cut_after_bytes = None
                return


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def cut_line(port: int, cut_after_bytes: int) -> Iterator[CutLine]:
    """Within, the line carries."""
    line = CutLine(port, cut_after_bytes)
    thread = threading.Thread(target=line.serve, name="cut line")
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
