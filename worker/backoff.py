"""How long to wait before trying again: random, so that a thousand workers whose coordinator was down do not come back as one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_SPREAD: Final = 0.5
"""A time that was named is exceeded by at most this share of it, and never undercut."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses with full jitter: uniform between nothing and a limit that doubles with each failure."""

    floor_seconds: float
    """Limit of the first pause."""
    ceiling_seconds: float
    """Limit of all."""
    draw: Callable[[], float] = random.random
    """Uniform in [0, 1)."""

    def seconds(self, failures: int) -> float:
        """The pause after so many failures in a row (>= 1)."""
        doublings = min(failures - 1, 32)
        return self.draw() * min(self.ceiling_seconds, self.floor_seconds * 2.0**doublings)

    def named_seconds(self, asked: timedelta) -> float:
        """The pause where the coordinator has said when to come back."""
        return asked.total_seconds() * (1 + _SPREAD * self.draw())
