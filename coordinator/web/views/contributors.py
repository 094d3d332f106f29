"""Who trained it: images credited by the names that volunteers give, in the last day, the last month, and in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.page_queries import Credit, PageQueries
from coordinator.records import now_ms
from coordinator.web.paging import Paging, page_of
from coordinator.web.sources import Sources

DAY_MS: Final = 86_400_000
_MONTH_DAYS: Final = 30


class Period(StrEnum):
    """What is counted."""

    DAY = "day"
    """The last 24 hours."""
    MONTH = "month"
    """The last 30 days."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Contributor:
    """All workers that give one name; without a name, one worker."""

    rank: int
    name: str
    """Never trusted, and not proven: anybody may give any."""
    worker_id: str
    """Of the only worker; empty where there are several."""
    workers: int
    images: int
    share: float
    """Of all that is credited in this time."""
    contributions: int
    """In all."""
    last_at_ms: int


@dataclass(frozen=True, slots=True)
class ContributorsView:
    """One page of them, those with the most images first."""

    period: Period
    find: str
    """Part of a name that was asked for."""
    images: int
    """Credited to everybody in this time."""
    contributors: int
    """Who have any of them."""
    paging: Paging
    rows: tuple[Contributor, ...]


async def read_credits(sources: Sources) -> list[Credit]:
    """Of all workers, as of now."""
    now = now_ms()
    return await sources.ledger.run(
        PageQueries.credits, month_since_ms=now - _MONTH_DAYS * DAY_MS, day_since_ms=now - DAY_MS
    )


def contributors(credited: Sequence[Credit], period: str, find: str, page: str) -> ContributorsView:
    """Page number `page` of those whose name has `find` in it, ranked among all; an unknown `period` is all of the time."""
    chosen = Period(period) if period in set(Period) else Period.ALL
    ranked = _ranked(credited, chosen)
    wanted = find.strip().casefold()
    found = [one for one in ranked if wanted in one.name.casefold() or wanted == one.worker_id] if wanted else ranked
    paging, rows = page_of(found, page)
    return ContributorsView(
        period=chosen,
        find=find.strip(),
        images=sum(one.images for one in ranked),
        contributors=len(ranked),
        paging=paging,
        rows=tuple(rows),
    )


def images_in(credit: Credit, period: Period) -> int:
    """What is credited of that time."""
    return {Period.DAY: credit.day_images, Period.MONTH: credit.month_images, Period.ALL: credit.images}[period]


def _ranked(credited: Iterable[Credit], period: Period) -> list[Contributor]:
    by_name: dict[tuple[str, str], list[Credit]] = {}
    for credit in credited:
        by_name.setdefault((credit.display_name, "" if credit.display_name else credit.worker_id), []).append(credit)
    sums = [(sum(images_in(one, period) for one in theirs), key, theirs) for key, theirs in by_name.items()]
    counted = sorted(
        ((images, key, theirs) for images, key, theirs in sums if images), key=lambda one: (-one[0], one[1])
    )
    total = sum(images for images, _, _ in counted)
    return [
        Contributor(
            rank=rank,
            name=name,
            worker_id=theirs[0].worker_id if len(theirs) == 1 else "",
            workers=len(theirs),
            images=images,
            share=images / total,
            contributions=sum(one.contributions for one in theirs),
            last_at_ms=max(one.last_at_ms for one in theirs),
        )
        for rank, (images, (name, _), theirs) in enumerate(counted, 1)
    ]
