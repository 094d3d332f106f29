"""One worker: what it gave day by day, what of that did not count and why, and how far the run believes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.page_queries import Day, PageQueries
from coordinator.records import DAY_MS, Action, Fault, LeaseState, now_ms
from coordinator.refusal_book import KEPT_DAYS, this_day
from coordinator.web.sources import Sources
from coordinator.web.views.log import LogEntry, log_entry
from coordinator.web.views.machines import Machine, device_words, read_machine
from coordinator.web.views.status import refusal_words
from diffusion_at_home.refusals import LEFT_OUT
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

_ID: Final = re.compile(r"[0-9a-f]{16}")
_LATEST: Final = 20
SHOWN_DAYS: Final = 90
"""Of a history, at most."""

FAULT_WORDS: Final[dict[str, str]] = {
    Fault.NOT_FINITE: "a number in it was infinite or none, so it was refused when it came",
    Fault.UNCHANGED: LEFT_OUT[Refusal.REFUSAL_UNCHANGED],
    Fault.COPIED: LEFT_OUT[Refusal.REFUSAL_COPIED],
    Fault.OUTLIER: LEFT_OUT[Refusal.REFUSAL_OUTLIER],
    Fault.OPPOSED: LEFT_OUT[Refusal.REFUSAL_OPPOSED],
    Fault.BANNED: "the worker was banned before the round was computed",
    "misfit": "what it showed of its error feedback did not fit, so it was refused when it came",
}
"""Why a delta did not count, for people."""

LEASE_WORDS: Final[dict[LeaseState, str]] = {
    LeaseState.SUBMITTED: "handed in",
    LeaseState.ACTIVE: "being trained now",
    LeaseState.RELEASED: "given back: the machine was stopped, or had no time left",
    LeaseState.EXPIRED: "taken back: the machine fell silent",
    LeaseState.MISSED: "too late: the round closed first",
}
"""What became of a lease, for people."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A delta that did not count."""

    lease_id: int
    round_number: int
    reason: str
    """A code: see `Fault`."""
    sentence: str


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was."""

    what: str
    """A code."""
    sentence: str
    count: int


@dataclass(frozen=True, slots=True)
class RefusedFor:
    """Calls that were refused for one reason, within the days that are kept."""

    reason: str
    """A code: the refusal's short name."""
    sentence: str
    calls: int
    last_day: int
    """The latest with any, since 1970, in UTC."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """The page of one worker."""

    worker_id: str
    name: str
    """Never trusted, and not proven, as the team."""
    team: str
    device: str
    memory_bytes: int
    software_version: str
    joined_at_ms: int
    images: int
    """Credited."""
    contributions: int
    """Credited."""
    first_at_ms: int | None
    """Start of the first day with any, since 1970."""
    days: tuple[Day, ...]
    """With any, oldest first."""
    shown_days: tuple[Day, ...]
    """The latest, also those with none."""
    leases: tuple[Count, ...]
    """By what became of them."""
    left_out: tuple[Count, ...]
    """Deltas that did not count, by reason."""
    latest_left_out: tuple[LeftOut, ...]
    """The newest first."""
    refused: tuple[RefusedFor, ...]
    """Calls that were refused, the most frequent reason first; it takes seconds until one is counted."""
    refused_days: int
    """Of which refused calls are kept, today among them."""
    audits_agreed: int
    """Contributions that were trained again, with the same result."""
    audits_disagreed: int
    """With another; these are nobody's credit."""
    newcomer: bool
    newcomer_leases: int
    """Contributions that must have counted, from which on a worker is none."""
    newcomer_share: float
    """Of a round's weight, at most, of all newcomers together."""
    rounds_left: int
    """In which it gets no work."""
    banned: bool
    actions: tuple[LogEntry, ...]
    """Of the operator, on this worker; the newest first."""
    now: Machine | None
    """What it does; None if it was not heard lately."""


async def read_worker(sources: Sources, worker: str) -> WorkerView | None:
    """Of the worker with this id; None if there is none."""
    ledger, standing, screening = sources.ledger, sources.standing, sources.spec.config.screening
    row = await ledger.run(PageQueries.worker_row, worker) if _ID.fullmatch(worker) else None
    if row is None:
        return None
    days = await ledger.run(PageQueries.days_of, worker)
    agreed, disagreed = await ledger.run(PageQueries.audits_of, worker)
    return WorkerView(
        worker_id=row.worker_id,
        name=row.display_name,
        team=row.team,
        device=device_words(row),
        memory_bytes=row.memory_bytes,
        software_version=row.software_version,
        joined_at_ms=row.joined_at_ms,
        images=sum(day.images for day in days),
        contributions=sum(day.contributions for day in days),
        first_at_ms=days[0].day * DAY_MS if days else None,
        days=tuple(days),
        shown_days=tuple(every_day(days, now_ms() // DAY_MS, SHOWN_DAYS)),
        leases=_counts(await ledger.run(PageQueries.lease_ends, worker)),
        left_out=tuple(
            Count(fault.value, fault_words(fault), count)
            for fault, count in (await ledger.run(PageQueries.left_out_of, worker)).items()
        ),
        latest_left_out=tuple(
            LeftOut(one.lease_id, one.round_number, one.fault.value, fault_words(one.fault))
            for one in await ledger.run(PageQueries.latest_left_out, worker, _LATEST)
        ),
        refused=tuple(
            RefusedFor(one.reason, refusal_words(one.reason), one.calls, one.last_day)
            for one in await ledger.run(PageQueries.refusals_of, worker, this_day() - KEPT_DAYS + 1)
        ),
        refused_days=KEPT_DAYS,
        audits_agreed=agreed,
        audits_disagreed=disagreed,
        newcomer=screening.enabled and standing.is_newcomer(row.worker_id),
        newcomer_leases=screening.newcomer_leases,
        newcomer_share=screening.newcomer_share,
        rounds_left=standing.rounds_left(row.worker_id, sources.next_round()),
        banned=standing.is_banned(row.worker_id),
        actions=_entries(await ledger.run(PageQueries.latest_actions, _LATEST, 0, subject=worker)),
        now=read_machine(sources, row),
    )


def fault_words(fault: Fault) -> str:
    """Why, for people."""
    return FAULT_WORDS.get(fault.value, fault.value.replace("_", " "))


def every_day(days: Sequence[Day], today: int, most: int) -> list[Day]:
    """The last `most` days up to `today`, from the first one with anything on; a day without has zeros."""
    if not days:
        return []
    by_day = {day.day: day for day in days}
    first = max(days[0].day, today - most + 1)
    return [by_day.get(day, Day(day, 0, 0)) for day in range(first, today + 1)]


def _counts(ends: dict[str, int]) -> tuple[Count, ...]:
    return tuple(Count(state.value, words, ends[state]) for state, words in LEASE_WORDS.items() if ends.get(state))


def _entries(actions: Sequence[Action]) -> tuple[LogEntry, ...]:
    return tuple(log_entry(action) for action in actions)
