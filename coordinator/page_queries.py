"""What the run's pages ask the ledger for. Reads only; what is many is summed, or thinned out, before it leaves the database.

An image is *credited* when its contribution came in a round whose version is published, was not left out of it, and no audit has
disagreed: as in a checkpoint's list of contributors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from coordinator import tables
from coordinator.data_pool import DataPool
from coordinator.open_ledger import OpenLedger
from coordinator.records import DAY_MS, Action, Evaluation, Fault, LeaseId, LeaseState, Version
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId

_NONE: Final[sa.ColumnElement[str]] = sa.literal_column(f"'{Fault.NONE.value}'")
"""Written out, so that SQLite sees that the index of what was left out will do."""

_AT_ONCE: Final = 500
"""Values in one list of a query: SQLite's limit is a thousand."""


@dataclass(frozen=True, slots=True)
class DataUnderWay:
    """What of the data is not done, at one instant."""

    pool: DataPool
    leased: tuple[ShardRange, ...]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A held-out loss, and when its version was published."""

    evaluation: Evaluation
    at_ms: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a worker says of itself, and when it first came. No key, no token."""

    worker_id: WorkerId
    display_name: str
    team: str
    device: str
    device_name: str
    num_devices: int
    memory_bytes: int
    software_version: str
    joined_at_ms: int


@dataclass(frozen=True, slots=True)
class Credit:
    """Of one worker that has any: images credited, in all and in its latest days."""

    worker_id: WorkerId
    display_name: str
    team: str
    images: int
    month_images: int
    day_images: int
    contributions: int
    last_at_ms: int
    """Of its latest contribution to a closed round."""


@dataclass(frozen=True, slots=True)
class Day:
    """What was credited of one day."""

    day: int
    """Since 1970, in UTC."""
    images: int
    contributions: int


@dataclass(frozen=True, slots=True)
class LeftOutRow:
    """A delta that did not count."""

    lease_id: LeaseId
    round_number: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """Calls of a worker that were refused for one reason."""

    reason: str
    calls: int
    last_day: int
    """The latest with any, since 1970, in UTC."""


@dataclass(frozen=True, slots=True)
class TeamRow:
    """Workers that say they are of one team."""

    workers: int
    since_ms: int
    """When the first of them joined."""


class PageQueries(OpenLedger):
    """The part of the ledger that is asked for the pages."""

    def created_at_ms(self) -> int:
        """When the run was made, since 1970."""
        return int(self._scalar(sa.select(tables.run.c.created_at_ms)))

    def latest_versions(self, most: int) -> list[Version]:
        """The newest `most`, oldest first."""
        query = sa.select(tables.versions).order_by(tables.versions.c.version.desc()).limit(most)
        return self._records(Version, query)[::-1]

    def under_way(self) -> DataUnderWay:
        """What of the data is not leased, and what is leased now."""
        leases = tables.leases.c
        active = sa.and_(
            leases.state == LeaseState.ACTIVE, leases.second_of == 0
        )  # a second one has no data of its own
        with self._begin() as tx:
            pool = DataPool.from_json(tx.execute(sa.select(tables.run.c.pool)).scalar_one())
            found = tx.execute(sa.select(tables.leases.c.ranges).where(active)).scalars()
            return DataUnderWay(pool, tuple(part for ranges in found for part in ranges))

    # -- how good it is -----------------------------------------------------------------------------------------

    def evaluated_versions(self) -> list[int]:
        """Those that have held-out losses and were not left behind by a rollback, ascending."""
        rows = tables.evaluations.c.version
        with self._begin() as tx:
            undone = _undone(tx)
            found = tx.execute(sa.select(rows).distinct().order_by(rows)).scalars().all()
        return [version for version in found if not any(back < version < again for back, again in undone)]

    def evaluations_of(self, versions: Collection[int]) -> list[Evaluated]:
        """The held-out losses of `versions`, oldest first."""
        wanted, rows = sorted(versions), tables.evaluations
        joined = rows.join(tables.versions, rows.c.version == tables.versions.c.version)
        query = sa.select(rows, tables.versions.c.published_at_ms.label("at_ms")).select_from(joined)
        found: list[Evaluated] = []
        with self._begin() as tx:
            for start in range(0, len(wanted), _AT_ONCE):
                part = query.where(rows.c.version.in_(wanted[start : start + _AT_ONCE])).order_by(
                    rows.c.version, rows.c.weights
                )
                for row in tx.execute(part).mappings():
                    facts = dict(row)
                    at_ms = facts.pop("at_ms")
                    found.append(Evaluated(Evaluation(**facts), at_ms))
        return found

    def sheets(self) -> dict[str, dict[str, str]]:
        """sha256 by file name, of the pictures of each judged checkpoint."""
        rows = tables.judgements.c
        with self._begin() as tx:
            return {str(name): dict(sheets) for name, sheets in tx.execute(sa.select(rows.checkpoint, rows.sheets))}

    # -- who trains it ------------------------------------------------------------------------------------------

    def credits(self, *, month_since_ms: int, day_since_ms: int) -> list[Credit]:
        """Of all workers that have any.

        All that came is summed by an index alone, and the little that is not credited is taken off again.
        """
        given, workers = tables.contributions.c, tables.workers.c
        summed = (
            sa.select(
                given.worker_id,
                sa.func.sum(given.images).label("images"),
                _images_since(month_since_ms).label("month_images"),
                _images_since(day_since_ms).label("day_images"),
                sa.func.count().label("contributions"),
                sa.func.max(given.accepted_at_ms).label("last_at_ms"),
            )
            .where(given.round_number <= _newest())
            .group_by(given.worker_id)
            .subquery()
        )
        query = sa.select(workers.display_name, workers.team, summed)
        query = query.join(summed, summed.c.worker_id == workers.worker_id)
        off = sa.select(given.worker_id, given.images, given.accepted_at_ms)
        off = off.where(given.round_number <= _newest(), given.lease_id.in_(_not_credited()))
        with self._begin() as tx:
            found = {row["worker_id"]: Credit(**row) for row in tx.execute(query).mappings()}
            for worker, images, at_ms in tx.execute(off):
                found[worker] = dataclasses.replace(
                    found[worker],
                    images=found[worker].images - images,
                    month_images=found[worker].month_images - (images if at_ms >= month_since_ms else 0),
                    day_images=found[worker].day_images - (images if at_ms >= day_since_ms else 0),
                    contributions=found[worker].contributions - 1,
                )
        return [credit for credit in found.values() if credit.contributions]

    def worker_row(self, worker: str) -> WorkerRow | None:
        """A worker that has joined."""
        return next(iter(self.worker_rows([worker])), None)

    def worker_rows(self, workers: Sequence[str]) -> list[WorkerRow]:
        """Those of at most `_AT_ONCE` workers that have joined."""
        return self._records(WorkerRow, _worker_rows().where(tables.workers.c.worker_id.in_(workers)))

    def workers_named(self, name: str, most: int) -> list[WorkerRow]:
        """At most so many that give this name, the first to come first."""
        if not name.isprintable():
            return []  # nobody's is not, and PostgreSQL cannot even be asked for some of them
        rows = tables.workers.c
        return self._records(
            WorkerRow, _worker_rows().where(rows.display_name == name).order_by(rows.joined_at_ms).limit(most)
        )

    def team(self, name: str) -> TeamRow | None:
        """Who is of the team of this name; None if nobody is."""
        rows = tables.workers.c
        query = sa.select(sa.func.count(), sa.func.min(rows.joined_at_ms)).where(rows.team == name)
        with self._begin() as tx:
            workers, since_ms = tx.execute(query).one()
        return TeamRow(workers, since_ms) if workers else None

    def days_of(self, worker: str) -> list[Day]:
        """What was credited to a worker, by the day it came in, oldest first."""
        return self._days(_credited(worker))

    def days_of_team(self, name: str, since_day: int) -> list[Day]:
        """What was credited to all workers of a team since that day, oldest first."""
        given, workers = tables.contributions.c, tables.workers.c
        theirs = given.worker_id.in_(sa.select(workers.worker_id).where(workers.team == name))
        counts = sa.and_(given.round_number <= _newest(), given.lease_id.not_in(_not_credited()))
        return self._days(sa.and_(theirs, given.accepted_at_ms >= since_day * DAY_MS, counts))

    def _days(self, which: sa.ColumnElement[bool]) -> list[Day]:
        given = tables.contributions.c
        day = (given.accepted_at_ms // DAY_MS).label("day")
        query = sa.select(day, sa.func.sum(given.images).label("images"), sa.func.count().label("contributions"))
        return self._records(Day, query.where(which).group_by(day).order_by(day))

    def lease_ends(self, worker: str) -> dict[str, int]:
        """How many leases of a worker are in each state."""
        rows = tables.leases.c
        query = sa.select(rows.state, sa.func.count()).where(rows.worker_id == worker).group_by(rows.state)
        with self._begin() as tx:
            return {state.value: int(count) for state, count in tx.execute(query)}

    def left_out_of(self, worker: str) -> dict[Fault, int]:
        """How many deltas of a worker did not count, by reason."""
        rows = tables.verdicts.c
        query = sa.select(rows.fault, sa.func.count()).where(rows.worker_id == worker, rows.fault != _NONE)
        with self._begin() as tx:
            return {fault: int(count) for fault, count in tx.execute(query.group_by(rows.fault))}

    def latest_left_out(self, worker: str, most: int) -> list[LeftOutRow]:
        """The latest of those, the newest first."""
        rows = tables.verdicts.c
        query = sa.select(rows.lease_id, rows.round_number, rows.fault)
        query = query.where(rows.worker_id == worker, rows.fault != _NONE)
        return self._records(LeftOutRow, query.order_by(rows.lease_id.desc()).limit(most))

    def refusals_of(self, worker: str, since_day: int) -> list[RefusedRow]:
        """Calls of a worker that were refused since that day, by reason, the most frequent first."""
        rows = tables.refusals.c
        calls = sa.func.sum(rows.calls).label("calls")
        query = sa.select(rows.reason, calls, sa.func.max(rows.day).label("last_day"))
        query = query.where(rows.worker_id == worker, rows.day >= since_day).group_by(rows.reason)
        return self._records(RefusedRow, query.order_by(calls.desc(), rows.reason))

    def audits_of(self, worker: str) -> tuple[int, int]:
        """How many contributions of a worker were recomputed: those that agreed, and those that did not."""
        rows = tables.audits.c
        query = sa.select(rows.agrees, sa.func.count()).where(rows.worker_id == worker).group_by(rows.agrees)
        with self._begin() as tx:
            counts = {bool(agrees): int(count) for agrees, count in tx.execute(query)}
        return counts.get(True, 0), counts.get(False, 0)

    # -- what the operator does ---------------------------------------------------------------------------------

    def latest_actions(self, most: int, offset: int, *, subject: str = "") -> list[Action]:
        """At most so many, the newest first, after the first `offset`; of one `subject`, if that is named."""
        rows = tables.actions
        query = sa.select(rows).order_by(rows.c.action_id.desc()).limit(most).offset(offset)
        return self._records(Action, query.where(rows.c.subject == subject) if subject else query)

    def num_actions(self) -> int:
        """In all."""
        return int(self._scalar(sa.select(sa.func.count(tables.actions.c.action_id))))


def _worker_rows() -> sa.Select[Any]:
    return sa.select(*(tables.workers.c[field.name] for field in dataclasses.fields(WorkerRow)))


def _images_since(since_ms: int) -> sa.ColumnElement[int]:
    given = tables.contributions.c
    return sa.func.sum(sa.case((given.accepted_at_ms >= since_ms, given.images), else_=0))


def _undone(tx: sa.Connection) -> list[tuple[int, int]]:
    """Of each rollback the version that it went back to and its own: what lies between was left behind."""
    rows = tables.versions.c
    found = tx.execute(sa.select(rows.back_to, rows.version).where(rows.back_to.is_not(None)))
    return [(int(back), int(version)) for back, version in found]


def _newest() -> Any:
    return sa.select(sa.func.max(tables.versions.c.version)).scalar_subquery()


def _not_credited(worker: str | None = None) -> sa.CompoundSelect[Any]:
    """Leases whose contributions are not; of one `worker`'s, if that is named."""
    verdicts, audits = tables.verdicts.c, tables.audits.c
    left_out = sa.select(verdicts.lease_id).where(verdicts.fault != _NONE)
    disagreed = sa.select(audits.lease_id).where(~audits.agrees)
    if worker is not None:
        left_out, disagreed = left_out.where(verdicts.worker_id == worker), disagreed.where(audits.worker_id == worker)
    return sa.union(left_out, disagreed)


def _credited(worker: str) -> sa.ColumnElement[bool]:
    """Of a row of `contributions`, one of `worker`'s."""
    given = tables.contributions.c
    return sa.and_(
        given.worker_id == worker, given.round_number <= _newest(), given.lease_id.not_in(_not_credited(worker))
    )
