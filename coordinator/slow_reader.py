"""Reads files no faster than so many bytes a second, so that who reads everything is in nobody's way."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from diffusion_at_home.outer.state import StateFacts, read_through

_PIECE_BYTES: Final = 1 << 20


class Stopped(Exception):
    """The reader is to stop: nobody waits for what it reads any more."""


class SlowReader:
    """For one thread; `stop` may be called from any."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End what is being read by `Stopped`, and whatever is read later."""
        self._stopping.set()

    def sha256(self, path: Path) -> str:
        """The digest of a file (hex). Raises `OSError`, `Stopped`."""
        sha256, has_read = hashlib.sha256(), self._paced()
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                sha256.update(piece)
                has_read(len(piece))
        return sha256.hexdigest()

    def state(self, path: Path) -> StateFacts:
        """What a state's file says of itself, all its vectors compared with their digests.

        Raises `IntegrityError`, `FileNotFoundError`, `Stopped`.
        """
        path.stat()
        return read_through(path, self._paced())

    def _paced(self) -> Callable[[int], None]:
        """Is told of each piece of one file that was read, and waits until the next one may be."""
        started, num_bytes = time.monotonic(), 0

        def has_read(piece_bytes: int) -> None:
            nonlocal num_bytes
            num_bytes += piece_bytes
            ahead = num_bytes / self._bytes_per_second - (time.monotonic() - started)
            if self._stopping.wait(max(ahead, 0)):
                raise Stopped

        return has_read
