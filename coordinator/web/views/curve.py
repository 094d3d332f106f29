"""Held-out loss over the run, in as many points as a screen shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.ledger_thread import LedgerThread
from coordinator.page_queries import Evaluated, PageQueries
from coordinator.records import Weights
from coordinator.web.thinning import thinned
from diffusion_at_home.model.times import EVALUATED_TIMES

MOST_POINTS: Final = 500


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One evaluated version; a loss that is not finite, or was not taken, is None."""

    version: int
    images: int
    at_ms: int
    """When it was published, since 1970."""
    raw: float | None
    ema: float | None
    bins: tuple[float | None, ...]
    """Of the better of the two, by `Curve.times`."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Of the versions that the newest one descends from."""

    times: tuple[float, ...]
    """Of the bins: 0 is the picture, 1 is noise."""
    evaluated: int
    """Versions in all; the points are some of them, evenly spread."""
    points: tuple[CurvePoint, ...]
    """Oldest first."""


async def read_curve(ledger: LedgerThread) -> Curve:
    """From the ledger."""
    versions = await ledger.run(PageQueries.evaluated_versions)
    found = await ledger.run(PageQueries.evaluations_of, thinned(versions, MOST_POINTS))
    by_version: dict[int, list[Evaluated]] = {}
    for one in found:
        by_version.setdefault(one.evaluation.version, []).append(one)
    return Curve(EVALUATED_TIMES, len(versions), tuple(_point(both) for both in by_version.values()))


def _point(both: Sequence[Evaluated]) -> CurvePoint:
    losses = {one.evaluation.weights: one.evaluation.mean for one in both}
    better = min(both, key=lambda one: one.evaluation.mean if math.isfinite(one.evaluation.mean) else math.inf)
    return CurvePoint(
        version=better.evaluation.version,
        images=better.evaluation.images,
        at_ms=better.at_ms,
        raw=finite(losses.get(Weights.RAW)),
        ema=finite(losses.get(Weights.EMA)),
        bins=tuple(finite(loss) for loss in better.evaluation.bins),
    )


def finite(value: float | None) -> float | None:
    """`value`, if it is a number."""
    return value if value is not None and math.isfinite(value) else None
