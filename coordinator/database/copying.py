"""Copies a ledger's rows from one engine to another."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

_AT_ONCE: Final = 1_000
"""Rows in memory."""


def copy_rows(source: sa.Connection, target: sa.Connection) -> int:
    """Every row of every table that `target` has, in the order in which tables refer to each other; returns how many.

    Both have the same revision, which need not be this software's: what columns there are is asked of the databases.
    """
    there, here, count = _reflected(source), _reflected(target), 0
    for table in here.sorted_tables:
        found = source.execution_options(yield_per=_AT_ONCE).execute(sa.select(there.tables[table.name]))
        for rows in found.mappings().partitions():
            target.execute(sa.insert(table), [dict(row) for row in rows])
            count += len(rows)
    return count


def _reflected(tx: sa.Connection) -> sa.MetaData:
    found = sa.MetaData()
    found.reflect(tx, only=lambda name, _: name != "alembic_version")
    return found
