"""Progress in lines, for logs and for whoever starts this command: seldom, and with the time that is left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_SECONDS: Final = 10.0
"""Between two lines."""
_RATE_SECONDS: Final = 30.0
"""The time that is left is told by the rate of so long: what goes on begins with what is there."""


@dataclass(slots=True)
class Calm:
    """When to say what."""

    since: float
    """On a monotonic clock (seconds)."""
    _said: float = field(init=False)
    _marks: deque[tuple[float, int]] = field(init=False)

    def __post_init__(self) -> None:
        self._said = self.since
        self._marks = deque([(self.since, 0)])

    def line(self, done: int, total: int, words: str, now: float) -> str | None:
        """What to say of `done` of `total` at the time `now`; None if something was said just before."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()
        if now - self._said < _SECONDS:
            return None
        self._said = now
        then, before = self._marks[0]
        parts = [f"{done / total:.0%}", words]
        if done > before:
            parts.append(f"{_duration((total - done) * (now - then) / (done - before))} to go")
        return ", ".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
