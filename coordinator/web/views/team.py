"""A team, and all workers that say they are of it: a claim, which nobody proves.

Its members are called by the names that they give, for to give one is to agree that it is shown; those who give none are counted
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.page_queries import Credit, Day, PageQueries
from coordinator.records import DAY_MS, now_ms
from coordinator.web.sources import Sources
from coordinator.web.views.worker import SHOWN_DAYS, every_day

MOST_MEMBERS: Final = 100


@dataclass(frozen=True, slots=True)
class Member:
    """All workers of the team that give one name; or all that give none."""

    name: str
    """Never trusted; empty of those that give none."""
    workers: int
    """That have any images."""
    images: int
    """Credited to them, within this team."""
    month_images: int
    day_images: int
    last_at_ms: int
    """Of their latest contribution, counted or not."""


@dataclass(frozen=True, slots=True)
class TeamView:
    """The page of a team."""

    name: str
    workers: int
    """That say they are of it, whether or not anything of them has counted."""
    since_ms: int
    """When the first of them joined the run."""
    images: int
    """Credited to all of them, also to what they gave while they were of another team."""
    month_images: int
    day_images: int
    contributions: int
    """Credited."""
    share: float
    """Of all that is credited to anybody."""
    members: tuple[Member, ...]
    """Those with the most images first, no more than so many; who has none is not among them."""
    more: bool
    """Whether there are."""
    shown_days: tuple[Day, ...]
    """The latest, also those with none, oldest first."""


async def read_team(sources: Sources, credited: Sequence[Credit], name: str) -> TeamView | None:
    """Of this name; None if nobody is of it."""
    found = await sources.ledger.run(PageQueries.team, name) if name else None
    if found is None:
        return None
    theirs = [credit for credit in credited if credit.team == name]
    members = _members(theirs)
    today = now_ms() // DAY_MS
    days = await sources.ledger.run(PageQueries.days_of_team, name, today - SHOWN_DAYS + 1)
    images, everybody = sum(credit.images for credit in theirs), sum(credit.images for credit in credited)
    return TeamView(
        name=name,
        workers=found.workers,
        since_ms=found.since_ms,
        images=images,
        month_images=sum(credit.month_images for credit in theirs),
        day_images=sum(credit.day_images for credit in theirs),
        contributions=sum(credit.contributions for credit in theirs),
        share=images / everybody if everybody else 0.0,
        members=tuple(members[:MOST_MEMBERS]),
        more=len(members) > MOST_MEMBERS,
        shown_days=tuple(every_day(days, today, SHOWN_DAYS)),
    )


def _members(credited: Sequence[Credit]) -> list[Member]:
    """By name, the nameless together."""
    by_name: dict[str, list[Credit]] = {}
    for credit in credited:
        by_name.setdefault(credit.display_name, []).append(credit)
    members = [
        Member(
            name=name,
            workers=len(theirs),
            images=sum(one.images for one in theirs),
            month_images=sum(one.month_images for one in theirs),
            day_images=sum(one.day_images for one in theirs),
            last_at_ms=max(one.last_at_ms for one in theirs),
        )
        for name, theirs in by_name.items()
    ]
    return sorted(members, key=lambda one: (-one.images, one.name))
