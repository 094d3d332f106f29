"""What the ledger asks of the engine that has its tables: the seam between `Ledger` and SQLite or PostgreSQL.

Transactions are the same in both. Whoever may write has the tables alone from a transaction's first statement to its end, so that
what it reads is still so when it writes. Whoever only reads sees one instant, and keeps nobody waiting. What has been
committed is on disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import sqlalchemy as sa

from diffusion_at_home.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

    from coordinator.migrations import Migrations

    Insert: TypeAlias = sqlite.Insert | postgresql.Insert
    """One that may say what becomes of a row that is there already."""


def this_softwares_migrations() -> Migrations:
    """They load Alembic, which takes a third of a second, and a start hardly ever needs them."""
    from coordinator.migrations import our_migrations  # noqa: PLC0415

    return our_migrations()


def damaged(name: str, what: object) -> IntegrityError:
    """That the ledger `name` is, by `what` was found."""
    return IntegrityError(f"{name} is damaged ({what}): restore it from a backup with `dah coordinator restore`")


class Database(ABC):
    """One run's tables, open."""

    name: str
    """What people are told it is; without a password."""

    @abstractmethod
    def begin(self) -> AbstractContextManager[sa.Connection]:
        """A transaction, which is committed at the end; what was raised within undoes it.

        Raises `StorageError` for what may be better another time, `IntegrityError` for damage, `SeatLost`.
        """

    @abstractmethod
    def changing_schema(self) -> AbstractContextManager[sa.Connection]:
        """The same, in which tables may be made and changed. Raises `IntegrityError` if a row refers to nothing at its end."""

    @abstractmethod
    def insert(self, table: sa.Table) -> Insert:
        """Of rows into `table`."""

    @abstractmethod
    def counted(self, tx: sa.Connection) -> dict[str, int]:
        """How far each table that numbers its rows has counted, by name; not there if it has not begun."""

    @abstractmethod
    def count_on(self, tx: sa.Connection, table: str, number: int) -> None:
        """Let the next row of `table` have a number above `number`."""

    @abstractmethod
    def check(self) -> None:
        """Raise `IntegrityError` if it is damaged, `ConfigError` if it would not keep what it says it has."""

    @abstractmethod
    def take_seat(self, patience: timedelta) -> None:
        """Be its one coordinator until `close`. Raises `ConfigError` if another process is, and stays it for so long."""

    @abstractmethod
    def hold_seat(self) -> bool:
        """Raise `SeatLost` if this process is that no longer; False if nobody can take it away."""

    @abstractmethod
    def copy_to(self, target: Path) -> None:
        """Write the ledger as it is at one instant to `target`: one SQLite file, durable, all or nothing.

        Raises `IntegrityError`, `StorageError`.
        """

    @abstractmethod
    def copy_before(self, revision: str) -> Path:
        """Where the ledger as it was before the upgrade to `revision` is kept."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    # -- the same for both --------------------------------------------------------------------------------------

    @contextmanager
    def filled(self, revision: str = "head") -> Iterator[sa.Connection]:
        """Make the tables, as they are at `revision`, and let them be filled within: all or nothing.

        Raises as `begin`, and `ConfigError` if there are some.
        """
        with self.changing_schema() as tx:
            if self.revision(tx) is not None:
                raise ConfigError(f"{self.name} holds a ledger already: name an empty database")
            this_softwares_migrations().run(tx, revision)
            yield tx

    def revision(self, tx: sa.Connection) -> str | None:
        """Of its schema; None if it is no ledger."""
        if not sa.inspect(tx).has_table("alembic_version"):
            return None
        found = tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if found is None else str(found)

    def upgrade(self, migrations: Migrations) -> None:
        """Bring an older one to the newest revision, all or nothing; what it was stays in `copy_before`."""
        self.copy_to(self.copy_before(migrations.newest))
        with self.changing_schema() as tx:
            migrations.run(tx)
