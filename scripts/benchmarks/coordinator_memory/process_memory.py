"""How much memory another process takes, by what Linux says of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.02
_RESET_PEAK: Final = "5"
"""See clear_refs in proc(5)."""


@dataclass(slots=True)
class Peak:
    """Bytes."""

    resident: int = 0
    """All of it, by the kernel's own mark (VmHWM): mapped files count."""
    anonymous: int = 0
    """What is of no file (RssAnon), so that the kernel cannot drop it; looked at every 20 ms."""


@contextmanager
def peak_of(pid: int) -> Iterator[Peak]:
    """The most within; what was before does not count."""
    root, peak, ended = Path("/proc") / str(pid), Peak(), threading.Event()
    (root / "clear_refs").write_text(_RESET_PEAK)

    def look() -> None:
        while not ended.wait(_POLL_SECONDS):
            peak.anonymous = max(peak.anonymous, _bytes(root, "RssAnon"))

    thread = threading.Thread(target=look, name="memory")
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.resident = _bytes(root, "VmHWM")


def _bytes(root: Path, name: str) -> int:
    for line in (root / "status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"no {name}")
