"""What the run's pages ask the ledger for. Reads only; what is many is summed, or thinned out, before it leaves the database.

An image is *credited* when its contribution came in a round whose version is published, was not left out of it, and no audit has
disagreed: as in a checkpoint's list of contributors.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from coordinator import tables
from coordinator.data_pool import DataPool
from coordinator.ledger_file import LedgerFile
from coordinator.records import Evaluation, Fault, LeaseState, Version
from diffusion_at_home.data.order import ShardRange

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


class PageQueries(LedgerFile):
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
        active = tables.leases.c.state == LeaseState.ACTIVE
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
                part = query.where(rows.c.version.in_(wanted[start : start + _AT_ONCE])).order_by(rows.c.version)
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


def _undone(tx: sa.Connection) -> list[tuple[int, int]]:
    """Of each rollback the version that it went back to and its own: what lies between was left behind."""
    rows = tables.versions.c
    found = tx.execute(sa.select(rows.back_to, rows.version).where(rows.back_to.is_not(None)))
    return [(int(back), int(version)) for back, version in found]


def _credited() -> sa.ColumnElement[bool]:
    """Of a row of `contributions`."""
    given = tables.contributions.c
    left_out = sa.select(tables.verdicts.c.lease_id).where(tables.verdicts.c.fault != Fault.NONE)
    disagreed = sa.select(tables.audits.c.lease_id).where(~tables.audits.c.agrees)
    newest: Any = sa.select(sa.func.max(tables.versions.c.version)).scalar_subquery()
    return sa.and_(given.round_number <= newest, given.lease_id.not_in(left_out), given.lease_id.not_in(disagreed))
