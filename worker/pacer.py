"""A volunteer's own limit on the line: bytes pass at no more than a rate, as one stream for all who share it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from diffusion_at_home.clock import Clock

_PIECES_A_SECOND: Final = 20
_SMALLEST_PIECE_BYTES: Final = 4096
_SAVED_PIECES: Final = 4
"""What a line that was idle may make up for: waits end late, most of all beside training."""


class Meter(Protocol):
    """What counts the bytes of one direction, and may forbid a transfer."""

    def passes(self, num_bytes: int) -> None:
        """So many bytes have gone over the line."""

    def transfer(self, num_bytes: int) -> AbstractContextManager[None]:
        """Within, so many bytes are about to pass. Raises `LeaseLost` if they may not."""


class Unmetered:
    """Counts nothing and forbids nothing."""

    def passes(self, num_bytes: int) -> None:
        """See `Meter.passes`."""

    def transfer(self, num_bytes: int) -> AbstractContextManager[None]:  # noqa: ARG002 -- see `Meter`
        """See `Meter.transfer`."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Meters:
    """Of both directions."""

    up: Meter = field(default_factory=Unmetered)
    down: Meter = field(default_factory=Unmetered)


class Pacer:
    """One direction of the line; may be used from any thread. Heartbeats do not pass here, so nothing delays them."""

    def __init__(
        self,
        bytes_per_second: float,
        clock: Clock,
        wait: Callable[[float], object],
        meter: Meter = Unmetered(),  # noqa: B008 -- it has no state
    ) -> None:
        """`wait` sleeps so many seconds; a rate of infinity limits nothing; `meter` counts what passes."""
        self._meter = meter
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._free_at = -math.inf

    @property
    def bytes_per_second(self) -> float:
        """The rate."""
        return self._bytes_per_second

    @property
    def piece_bytes(self) -> int | None:
        """How much should pass at once, so that it flows evenly; None does not matter."""
        if math.isinf(self._bytes_per_second):
            return None
        return max(_SMALLEST_PIECE_BYTES, int(self._bytes_per_second / _PIECES_A_SECOND))

    def transfer(self, num_bytes: int) -> AbstractContextManager[None]:
        """Within, at most so many bytes will pass. Raises `LeaseLost` if the meter forbids that."""
        return self._meter.transfer(num_bytes)

    def passes(self, num_bytes: int) -> None:
        """So many bytes have passed: returns when the next may.

        The time that pieces have taken to pass counts, and so do waits that were late.
        """
        self._meter.passes(num_bytes)
        if self.piece_bytes is None:
            return
        with self._lock:
            now = self._clock.now()
            begun_at = max(self._free_at, now - _SAVED_PIECES * self.piece_bytes / self._bytes_per_second)
            self._free_at = begun_at + num_bytes / self._bytes_per_second
            seconds = self._free_at - now
        if seconds > 0:
            self._wait(seconds)
