"""What a worker has measured of itself; the coordinator sizes leases by it and the lease keeper plans by it."""

from __future__ import annotations

from typing import Final

_NEWEST_SHARE: Final = 0.5
"""Of the latest measurement in the average: a machine that gets busy is believed within two leases."""

_FIRST_PUSH_SECONDS: Final = 0.5


class Pace:
    """Moving averages over the last leases."""

    def __init__(self) -> None:
        self.images_per_second = 0.0
        """0 until something was measured."""
        self.push_seconds = _FIRST_PUSH_SECONDS
        """From the last step to the receipt, outages left out; a guess until something was measured."""
        self._pushed = False

    def trained(self, images: int, seconds: float) -> None:
        """Learn from one lease's training."""
        speed = images / max(seconds, 1e-6)
        self.images_per_second = _average(self.images_per_second, speed) if self.images_per_second else speed

    def pushed(self, seconds: float) -> None:
        """Learn from one contribution that went through."""
        self.push_seconds = _average(self.push_seconds, seconds) if self._pushed else seconds
        self._pushed = True

    def step_seconds(self, batch_images: int) -> float:
        """Time of one inner step; 0 until something was measured."""
        return batch_images / self.images_per_second if self.images_per_second else 0.0


def _average(old: float, new: float) -> float:
    return (1 - _NEWEST_SHARE) * old + _NEWEST_SHARE * new
