"""Who works now: at what, how fast, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.dispatcher import AtWork
from coordinator.page_queries import PageQueries, WorkerRow
from coordinator.web.paging import Paging, page_of
from coordinator.web.sources import Sources

_QUIET_SECONDS: Final = 60.0
"""A worker's silence that is worth a word."""


class MachineState(StrEnum):
    """What a machine does."""

    TRAINS = "trains"
    WAITS = "waits"
    RESTS = "rests"
    """It gets no lease for some rounds."""
    BETWEEN = "between leases"


@dataclass(frozen=True, slots=True)
class Machine:
    """One that was heard lately."""

    worker_id: str
    name: str
    """What its volunteer calls it; never trusted."""
    device: str
    state: MachineState
    reason: str
    """A sentence."""
    images_per_second: float | None
    """While it trains."""
    lease_images: int | None
    lease_since_ms: int | None
    heard_seconds_ago: float


@dataclass(frozen=True, slots=True)
class MachinesView:
    """One page of them, the quickest first."""

    machines: int
    """In all."""
    training: int
    waiting: int
    images_per_second: float
    """Of all that train, together."""
    paging: Paging
    rows: tuple[Machine, ...]


async def read_machines(sources: Sources, page: str) -> MachinesView:
    """Those of page number `page`."""
    live = sorted(sources.at_work(), key=lambda one: (-(one.images_per_second or 0.0), one.worker))
    paging, shown = page_of(live, page)
    known = {row.worker_id: row for row in await sources.ledger.run(PageQueries.worker_rows, _ids(shown))}
    round_number = sources.next_round()
    rows = [
        _machine(one, known.get(one.worker), sources.standing.rounds_left(one.worker, round_number)) for one in shown
    ]
    trains = [one for one in live if one.lease is not None]
    return MachinesView(
        machines=len(live),
        training=len(trains),
        waiting=sum(one.waits for one in live),
        images_per_second=sum(one.images_per_second or 0.0 for one in trains),
        paging=paging,
        rows=tuple(rows),
    )


def state_of(one: AtWork, rounds_left: int) -> tuple[MachineState, str]:
    """What it does, and a sentence why."""
    if one.lease is not None:
        quiet = one.silent_seconds >= _QUIET_SECONDS
        reason = "not heard for a while: if it stays silent, others get its share" if quiet else ""
        return MachineState.TRAINS, reason or f"its share of round {one.lease.round_number:,}"
    if rounds_left:
        rounds = "the next round" if rounds_left == 1 else f"{rounds_left:,} rounds"
        return MachineState.RESTS, f"too much of what it handed in did not count: no work for {rounds}"
    if one.waits:
        return MachineState.WAITS, "all images of this round are given out: it gets work with the next one"
    return MachineState.BETWEEN, "it has handed in, or has not asked for work yet"


def _machine(one: AtWork, row: WorkerRow | None, rounds_left: int) -> Machine:
    state, reason = state_of(one, rounds_left)
    return Machine(
        worker_id=one.worker,
        name=row.display_name if row else "",
        device=device_words(row) if row else "",
        state=state,
        reason=reason,
        images_per_second=one.images_per_second,
        lease_images=one.lease.quota_images if one.lease else None,
        lease_since_ms=one.lease.granted_at_ms if one.lease else None,
        heard_seconds_ago=one.silent_seconds,
    )


def device_words(row: WorkerRow) -> str:
    """The machine's device, as it says."""
    name = row.device_name or row.device
    return f"{row.num_devices} × {name}" if row.num_devices > 1 else name


def _ids(live: Sequence[AtWork]) -> list[str]:
    return [one.worker for one in live]


def read_machine(sources: Sources, row: WorkerRow) -> Machine | None:
    """What this worker does now; None if it was not heard lately."""
    here = next((one for one in sources.at_work() if one.worker == row.worker_id), None)
    if here is None:
        return None
    return _machine(here, row, sources.standing.rounds_left(row.worker_id, sources.next_round()))
