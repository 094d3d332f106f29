"""The time that a Join is signed with: later than ever before, whatever this machine's clock says.

The coordinator takes a Join only once and only if it is later than the last one, so that nobody can send a recorded one
again. A clock that was a year ahead and has been set must not lock its worker out for a year.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from worker.atomic_file import write_atomically

_MOST_DIGITS: Final = 16


class JoinStamp:
    """Remembers the last stamp in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def next_ms(self) -> int:
        """Milliseconds since 1970 by this machine's clock, or a little more. Raises `StorageError`."""
        with self._lock:
            stamp = max(time.time_ns() // 1_000_000, self._last() + 1)
            write_atomically(self._path, f"{stamp}\n".encode())
            return stamp

    def _last(self) -> int:
        try:
            text = self._path.read_bytes().strip()
        except FileNotFoundError:
            return 0
        return int(text) if text.isdigit() and len(text) <= _MOST_DIGITS else 0
