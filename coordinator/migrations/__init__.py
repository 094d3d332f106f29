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

    def run(self, tx: sa.Connection, revision: str = "head") -> None:
        """Bring the database, also an empty one, to `revision` within the caller's transaction (`changing_schema`)."""

        def steps(found: str, context: MigrationContext) -> list[RevisionStep]:  # noqa: ARG001 -- Alembic's signature
            # As in Alembic's own `upgrade` command, which would want an env.py and a Config around it.
            return self._scripts._upgrade_revs(revision, found)

        with Operations.context(context := MigrationContext.configure(tx, opts={"fn": steps})):
            context.run_migrations()


@cache
def our_migrations() -> Migrations:
    """Those of this software."""
    return Migrations()
