"""A ledger that is open: found, brought to this software's schema, and its transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa

from coordinator import tables
from coordinator.database.base import Database, this_softwares_migrations
from coordinator.database.opening import database_at
from diffusion_at_home import events
from diffusion_at_home.errors import IntegrityError

if TYPE_CHECKING:
    from coordinator.database.base import Insert
    from coordinator.migrations import Migrations

SEAT_PATIENCE: Final = timedelta(seconds=30)
"""For a coordinator whose machine is gone, which a server finds out within ten."""

RecordT = TypeVar("RecordT")
_log = events.logger("coordinator")


class OpenLedger:
    """One run's database, open."""

    def __init__(self, path: Path, *, read_only: bool = False, migrations: Migrations | None = None) -> None:
        """Open the ledger at `path` (`database_at`); an older one is brought to the newest of `migrations`, else of ours.

        Raises `IntegrityError`, also for an older one that may only be read; `StorageError`, `ConfigError`.
        """
        if not path.is_file():
            raise IntegrityError(f"{path} does not exist: make a run with `dah coordinator init`")
        self._database = database_at(path, read_only=read_only)
        try:
            self._bring_up_to_date(migrations, read_only=read_only)
        except BaseException:  # raised again; the file must not stay open
            self._database.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        self._database.close()

    def check(self) -> None:
        """Raise `IntegrityError` if it is damaged, `ConfigError` if it would not keep what it says it has."""
        self._database.check()

    def take_seat(self, patience: timedelta = SEAT_PATIENCE) -> None:
        """Be its one coordinator until `close`. Raises `ConfigError` if another process is, and stays it for so long."""
        self._database.take_seat(patience)

    def hold_seat(self) -> bool:
        """Raise `SeatLost` if this process is that no longer; False if nobody can take it away."""
        return self._database.hold_seat()

    # -- transactions, for what inherits ------------------------------------------------------------------------

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with self._database.begin() as tx:
            yield tx

    def _insert(self, table: sa.Table) -> Insert:
        return self._database.insert(table)

    def _scalar(self, query: sa.Select[Any]) -> Any:
        with self._begin() as tx:
            return tx.execute(query).scalar_one()

    def _records(self, record: type[RecordT], query: sa.Select[Any]) -> list[RecordT]:
        with self._begin() as tx:
            return [record(**row) for row in tx.execute(query).mappings()]

    # -- its schema ---------------------------------------------------------------------------------------------

    def _bring_up_to_date(self, migrations: Migrations | None, *, read_only: bool) -> None:
        with self._begin() as tx:
            found = self._database.revision(tx)
        if migrations is None and found == tables.REVISION:
            return
        known = migrations or this_softwares_migrations()
        _check_revision(self._database, found, known, read_only=read_only)
        if found != known.newest:
            self._database.upgrade(known)
            copy = self._database.copy_before(known.newest)
            _log.info("ledger_upgraded", before=found, revision=known.newest, copy=str(copy))


@contextmanager
def new_tables(path: Path) -> Iterator[sa.Connection]:
    """A new ledger at `path` with the newest tables, to be filled within: all or nothing.

    Raises `StorageError`, `ConfigError` if the server's database holds one.
    """
    database = database_at(path)
    try:
        with database.filled() as tx:
            yield tx
    finally:
        database.close()


def _check_revision(database: Database, found: str | None, known: Migrations, *, read_only: bool) -> None:
    name = database.name
    if found is None:
        raise IntegrityError(f"{name} is no ledger: restore it from a backup")
    if not known.knows(found):
        raise IntegrityError(f"{name} has revision {found}, which this software does not know: use newer software")
    if read_only and found != known.newest:
        raise IntegrityError(
            f"{name} has revision {found} instead of {known.newest}: start the coordinator once, which upgrades it"
        )
