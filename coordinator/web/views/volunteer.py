"""A name, and all workers that give it: a claim, which nobody proves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.page_queries import Credit, PageQueries
from coordinator.web.sources import Sources
from coordinator.web.views.machines import device_words

MOST_WORKERS: Final = 100


@dataclass(frozen=True, slots=True)
class NamedWorker:
    """A worker that gives this name."""

    worker_id: str
    device: str
    joined_at_ms: int
    images: int
    """Credited."""
    month_images: int
    day_images: int
    last_at_ms: int | None
    """Of its latest contribution; None if none is credited."""


@dataclass(frozen=True, slots=True)
class VolunteerView:
    """The page of a name."""

    name: str
    images: int
    """Credited to all workers that give it."""
    month_images: int
    day_images: int
    workers: tuple[NamedWorker, ...]
    """The first to come first; no more than so many."""
    more: bool
    """Whether there are."""


async def read_volunteer(sources: Sources, credited: Sequence[Credit], name: str) -> VolunteerView | None:
    """Of this name; None if nobody gives it."""
    rows = await sources.ledger.run(PageQueries.workers_named, name, MOST_WORKERS + 1) if name else []
    if not rows:
        return None
    theirs = [credit for credit in credited if credit.display_name == name]
    by_worker = {credit.worker_id: credit for credit in theirs}
    workers = []
    for row in rows[:MOST_WORKERS]:
        credit = by_worker.get(row.worker_id)
        workers.append(
            NamedWorker(
                worker_id=row.worker_id,
                device=device_words(row),
                joined_at_ms=row.joined_at_ms,
                images=credit.images if credit else 0,
                month_images=credit.month_images if credit else 0,
                day_images=credit.day_images if credit else 0,
                last_at_ms=credit.last_at_ms if credit else None,
            )
        )
    return VolunteerView(
        name=name,
        images=sum(credit.images for credit in theirs),
        month_images=sum(credit.month_images for credit in theirs),
        day_images=sum(credit.day_images for credit in theirs),
        workers=tuple(workers),
        more=len(rows) > MOST_WORKERS,
    )
