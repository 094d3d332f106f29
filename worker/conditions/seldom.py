"""A sensor that is asked no more often than it needs: in between, what it last said is repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from diffusion_at_home.clock import Clock

ReadingT = TypeVar("ReadingT")


class Seldom(Generic[ReadingT]):
    """What `read` says, at most so many seconds old. What it raises is remembered just as long, and raised again."""

    def __init__(self, read: Callable[[], ReadingT], seconds: float, clock: Clock) -> None:
        self._read = read
        self._seconds = seconds
        self._clock = clock
        self._read_at: float | None = None
        self._said: ReadingT
        self._error: Exception | None = None

    def __call__(self) -> ReadingT:
        """See the class."""
        now = self._clock.now()
        if self._read_at is None or now - self._read_at >= self._seconds:
            self._read_at = now
            try:
                self._said, self._error = self._read(), None
            except Exception as error:  # noqa: BLE001 -- raised again below
                self._error = error
        if self._error is not None:
            raise self._error
        return self._said
