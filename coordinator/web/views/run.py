"""The run: how far it is, how fast it goes, how good it is, what it draws, what of its data it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coordinator.page_queries import PageQueries
from coordinator.web.coverage import Coverage, coverage
from coordinator.web.sources import Sources
from coordinator.web.thinning import thinned
from coordinator.web.views.curve import Curve, CurvePoint
from coordinator.web.views.live import LiveView, live_view
from coordinator.web.views.pictures import Pictures, read_pictures
from coordinator.web.views.progress import Progress, read_progress

_MOST_CELLS: Final = 400
_TABLE_ROWS: Final = 12
"""Of the curve's text alternative."""


@dataclass(frozen=True, slots=True)
class RunView:
    """The front page."""

    run_id: str
    name: str
    title: str
    parameters: int
    created_at_ms: int
    progress: Progress
    live: LiveView
    """The same, as it is shown."""
    loss: float | None
    """Held-out, of the newest evaluated version, the better of raw and average."""
    lowest_loss: CurvePoint | None
    """Where that was lowest."""
    times: tuple[float, ...]
    """Of the bins of the loss."""
    rows: tuple[CurvePoint, ...]
    """Of the curve, a few."""
    pictures: Pictures
    coverage: Coverage
    data_name: str
    data_license: str


async def read_run(sources: Sources, curve: Curve) -> RunView:
    """All of the front page; of the `curve` only what is told in words."""
    spec, ledger = sources.spec, sources.ledger
    taken = [point for point in curve.points if best_loss(point) is not None]
    now = await read_progress(sources)
    return RunView(
        run_id=spec.run_id,
        name=spec.config.run.name,
        title=spec.config.run.title,
        parameters=sources.num_parameters,
        created_at_ms=await ledger.run(PageQueries.created_at_ms),
        progress=now,
        live=live_view(now),
        loss=best_loss(taken[-1]) if taken else None,
        lowest_loss=min(taken, key=lambda point: best_loss(point) or 0.0, default=None),
        times=curve.times,
        rows=tuple(thinned(curve.points, _TABLE_ROWS)),
        pictures=await ledger.run(read_pictures, spec.config.checkpoint.grid_prompts),
        coverage=await _coverage(sources),
        data_name=spec.data.name,
        data_license=spec.data.license,
    )


async def _coverage(sources: Sources) -> Coverage:
    data = await sources.ledger.run(PageQueries.under_way)
    sizes = [entry.num_samples for entry in sources.spec.data.train]
    return coverage(data.pool, data.leased, sizes, seed=sources.spec.config.run.seed, most_cells=_MOST_CELLS)


def best_loss(point: CurvePoint) -> float | None:
    """The lower of raw and average."""
    return min((loss for loss in (point.raw, point.ema) if loss is not None), default=None)
