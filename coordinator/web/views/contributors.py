"""Who trained it: images credited by the names or teams that volunteers give, of a day, of a month, and in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from coordinator.page_queries import Credit, PageQueries
from coordinator.records import DAY_MS, now_ms
from coordinator.web.paging import Paging, page_of
from coordinator.web.sources import Sources

_MONTH_DAYS: Final = 30


class Period(StrEnum):
    """What is counted."""

    DAY = "day"
    """The last 24 hours."""
    MONTH = "month"
    """The last 30 days."""
    ALL = "all"


class By(StrEnum):
    """What is counted together."""

    NAME = "name"
    """All workers of one name; without a name, one worker."""
    TEAM = "team"
    """All workers of one team; who is of none is not counted."""


@dataclass(frozen=True, slots=True)
class Contributor:
    """All workers that give one name, or one team; without a name, one worker."""

    rank: int
    name: str
    """Never trusted, and not proven: anybody may give any."""
    worker_id: str
    """Of the only worker; empty where there are several."""
    workers: int
    """That have any images in this time."""
    images: int
    share: float
    """Of all that is credited in this time."""
    contributions: int
    """In all."""
    last_at_ms: int
    """Of the latest contribution, counted or not."""


@dataclass(frozen=True, slots=True)
class ContributorsView:
    """One page of them, those with the most images first."""

    period: Period
    by: By
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


def contributors(credited: Sequence[Credit], period: str, by: str, find: str, page: str) -> ContributorsView:
    """Page number `page` of those whose name has `find` in it, ranked among all.

    An unknown `period` is all of the time, and an unknown `by` counts by name.
    """
    chosen = Period(period) if period in set(Period) else Period.ALL
    together = By.TEAM if by == By.TEAM else By.NAME
    ranked = _ranked(credited, chosen, together)
    wanted = find.strip().casefold()
    found = [one for one in ranked if one.is_called(wanted)] if wanted else ranked
    paging, shown = page_of(found, page)
    total = sum(one.images for one in ranked)
    return ContributorsView(
        period=chosen,
        by=together,
        find=find.strip(),
        images=total,
        contributors=len(ranked),
        paging=paging,
        rows=tuple(_row(one, total) for one in shown),
    )


def images_in(credit: Credit, period: Period) -> int:
    """What is credited of that time."""
    match period:
        case Period.DAY:
            return credit.day_images
        case Period.MONTH:
            return credit.month_images
        case Period.ALL:
            return credit.images


@dataclass(slots=True)
class _Named:
    """All credit of one name, or of one worker without a name."""

    key: tuple[str, str]
    """The name or the team, or the worker."""
    images: int = 0
    rank: int = 0
    theirs: list[Credit] = field(default_factory=list)

    def is_called(self, wanted: str) -> bool:
        """Whether `wanted`, without capitals, is part of the name, or one of the workers."""
        return wanted in self.key[0].casefold() or any(one.worker_id == wanted for one in self.theirs)


def _ranked(credited: Iterable[Credit], period: Period, by: By) -> list[_Named]:
    by_name: dict[tuple[str, str], _Named] = {}
    for credit in credited:
        images = images_in(credit, period)
        if images and (by is By.NAME or credit.team):
            name = credit.display_name if by is By.NAME else credit.team
            key = (name, "" if name else credit.worker_id)
            named = by_name.setdefault(key, _Named(key))
            named.images += images
            named.theirs.append(credit)
    ranked = sorted(by_name.values(), key=lambda one: (-one.images, one.key))
    for rank, named in enumerate(ranked, 1):
        named.rank = rank
    return ranked


def _row(one: _Named, total: int) -> Contributor:
    return Contributor(
        rank=one.rank,
        name=one.key[0],
        worker_id=one.theirs[0].worker_id if len(one.theirs) == 1 else "",
        workers=len(one.theirs),
        images=one.images,
        share=one.images / total,
        contributions=sum(credit.contributions for credit in one.theirs),
        last_at_ms=max(credit.last_at_ms for credit in one.theirs),
    )
