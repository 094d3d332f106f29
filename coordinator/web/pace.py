"""How fast a run goes by its published versions, and when it will have its images. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

_LATE: Final = 2.0
"""Times the usual distance of versions, from which on a silence counts: until then the round under way is simply not over."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version as far as the pace depends on it."""

    images: int
    """Since the start of the run."""
    at_ms: int
    """When it was published, since 1970."""


def images_per_second(published: Sequence[Published], now_ms: int) -> float | None:
    """The mean over `published`, consecutive versions from the oldest on; None of fewer than two.

    A rollback trains nothing, and undoes no work that was done. A run whose rounds have stopped gets slower by the minute.
    """
    if len(published) < 2:
        return None
    first, newest = published[0], published[-1]
    trained = sum(max(0, later.images - sooner.images) for sooner, later in pairwise(published))
    usual_ms = (newest.at_ms - first.at_ms) / (len(published) - 1)
    silent_ms = now_ms - newest.at_ms
    elapsed_ms = newest.at_ms - first.at_ms + (silent_ms if silent_ms > _LATE * usual_ms else 0)
    return trained / elapsed_ms * 1000 if elapsed_ms > 0 else None


def seconds_left(images_left: int, rate: float | None) -> float | None:
    """Until so many more images are trained at `rate` images a second; None if nobody knows."""
    if images_left <= 0:
        return 0.0
    return images_left / rate if rate else None
