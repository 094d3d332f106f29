"""The ledger's schema through time: one file a revision in `versions/`, each made from the one before. Alembic runs them.

Nothing but this package knows Alembic, and there is no alembic.ini: the revisions travel with the software, which brings
an older ledger to its own revision when it opens it. They are written by hand, for SQLite and PostgreSQL alike: a table
that SQLite cannot alter is rebuilt by Alembic's batch mode, whose `table_kwargs` must say `sqlite_autoincrement` again
where the table had it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory

from diffusion_at_home.errors import IntegrityError

_HERE: Final = Path(__file__).parent


class Migrations:
    """All revisions of the schema, in one line."""

    def __init__(self, *further: Path) -> None:
        """Those of this software, and those in the folders `further`: a revision is tried there before it is one of ours."""
        self._scripts = ScriptDirectory(str(_HERE), version_locations=[str(_HERE / "versions"), *map(str, further)])
        newest = self._scripts.get_current_head()
        assert newest is not None
        self.newest = newest

    def knows(self, revision: str) -> bool:
        """Whether it is one of these."""
        return any(script.revision == revision for script in self._scripts.walk_revisions())

    def run(self, tx: sa.Connection) -> None:
        """Bring the database, also an empty one, to the newest revision within the caller's transaction.

        Foreign keys must be off, or rebuilding a table would take the rows that refer to it along; they are checked at the
        end (`IntegrityError`). A number that a table has counted to is never counted to again.
        """
        context = MigrationContext.configure(tx, opts={"fn": self._steps})
        counted = _counted(tx)
        with Operations.context(context):
            context.run_migrations()
        _count_on(tx, counted)
        if tx.dialect.name == "sqlite" and (broken := tx.exec_driver_sql("PRAGMA foreign_key_check").first()):
            raise IntegrityError(
                f"revision {self.newest} leaves a row of {broken[0]} that refers to nothing: use other software"
            )

    def _steps(self, revision: str, context: MigrationContext) -> list[RevisionStep]:  # noqa: ARG002 -- Alembic's signature
        # As in Alembic's own `upgrade` command, which would want an env.py and a Config around it.
        return self._scripts._upgrade_revs("head", revision)


@cache
def our_migrations() -> Migrations:
    """Those of this software."""
    return Migrations()


def _counted(tx: sa.Connection) -> dict[str, int]:
    """How far each AUTOINCREMENT table of SQLite has counted: rebuilding one would forget what lies above its rows."""
    if tx.dialect.name != "sqlite" or not sa.inspect(tx).has_table("sqlite_sequence"):
        return {}
    return {str(name): int(number) for name, number in tx.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")}


def _count_on(tx: sa.Connection, counted: dict[str, int]) -> None:
    tables = set(sa.inspect(tx).get_table_names())
    now = _counted(tx)
    for name, number in counted.items():
        if name in tables and now.get(name, 0) < number:
            tx.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
            tx.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, number))
