"""A ledger that a PostgreSQL server has, in the first schema of the connection's search path.

Two advisory locks, each one of a schema. *Writing* is held through a transaction by whoever may write: what follows sees all
that was committed before. *The seat* is held by one connection of the coordinator, the one that all its transactions take,
for as long as that lives: the server gives it to another only once it is gone, and with it whatever was not committed.
So a coordinator that was cut off, or stood still for too long, cannot commit any more, whatever it believes: there is no moment
between a look at the lock and a commit. It never connects again; a new process does, and finds out what was committed.

A pooler that deals one session's transactions out to several of the server's is found out, and refused.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from coordinator.database.address import read_address, told
from coordinator.database.base import Database, damaged
from coordinator.database.copying import copy_rows
from coordinator.database.sqlite import SqliteDatabase, settle
from diffusion_at_home.errors import ConfigError, SeatLost, StorageError, storage_errors

_LINE: Final = {"keepalives_idle": 3, "keepalives_interval": 2, "keepalives_count": 2, "tcp_user_timeout": 7000}
"""After how many seconds (milliseconds) a dead line is one: of both ends, on which the same is set."""

_SESSION: Final = {
    "lock_timeout": "'10s'",
    "tcp_keepalives_idle": 3,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 2,
    "tcp_user_timeout": 7000,
}

_ALONE: Final = "SELECT pg_backend_pid(), pg_advisory_xact_lock(hashtextextended('dah ledger ' || current_schema(), 0))"
_TRY: Final = (
    "SELECT pg_backend_pid(), pg_try_advisory_lock(hashtextextended('dah coordinator ' || current_schema(), 0))"
)
_HOLDER: Final = (
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
    "AND (classid::bigint << 32) | objid::bigint = hashtextextended('dah coordinator ' || current_schema(), 0)"
)


class PostgresqlDatabase(Database):
    """One schema of one database of a server."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """That whose address is in the file `path`. Raises `ConfigError`."""
        url = read_address(path)
        self._path = path
        self._seat: int | None = None
        """The server's process that has it."""
        self._read_only = read_only
        self._engine = self._make_engine(url)
        self.name = told(url)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """See `Database`."""
        try:
            with self._engine.begin() as tx:
                yield tx
        except sa.exc.IntegrityError:
            raise
        except DBAPIError as error:
            raise self._meaning(error) from error

    changing_schema = begin
    """What it does to tables is part of a transaction like everything else, and no table is rebuilt."""

    def insert(self, table: sa.Table) -> postgresql.Insert:
        """See `Database`."""
        return postgresql.insert(table)

    def counted(self, tx: sa.Connection) -> dict[str, int]:
        """See `Database`."""
        found = tx.exec_driver_sql(
            "SELECT c.table_name, s.last_value FROM information_schema.columns c JOIN pg_sequences s "
            "ON s.schemaname = c.table_schema AND c.column_default LIKE '%%' || s.sequencename || '%%' "
            "WHERE c.table_schema = current_schema() AND s.last_value IS NOT NULL"
        )
        return {str(name): int(number) for name, number in found}

    def count_on(self, tx: sa.Connection, table: str, number: int) -> None:
        """See `Database`."""
        (key,) = sa.inspect(tx).get_pk_constraint(table)["constrained_columns"]
        tx.execute(sa.select(sa.func.setval(sa.func.pg_get_serial_sequence(table, key), number)))

    def check(self) -> None:
        """Whether its server syncs what it commits. Damage is what the server itself finds, where its checksums are on."""
        with self.begin() as tx:
            unsafe = [
                name for name in ("fsync", "full_page_writes") if tx.exec_driver_sql(f"SHOW {name}").scalar() == "off"
            ]
        if unsafe:
            raise ConfigError(
                f"the server of {self.name} has {' and '.join(unsafe)} off, and may lose what it has said to keep: set them on"
            )

    def take_seat(self, patience: timedelta) -> None:
        """See `Database`."""
        deadline = time.monotonic() + patience.total_seconds()
        while True:
            with self.begin() as tx:
                process, is_ours = tx.exec_driver_sql(_TRY).one()
                holder = None if is_ours else tx.exec_driver_sql(_HOLDER).scalar()
            if is_ours:
                self._seat = process
                return
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the ledger {self.name} has a coordinator already ({holder or 'unknown'}): stop it first"
                )
            time.sleep(0.2)

    def hold_seat(self) -> bool:
        """See `Database`."""
        with self.begin():  # which finds out
            return True

    def copy_to(self, target: Path) -> None:
        """See `Database`; all rows pass through this process."""
        temporary = target.with_suffix(".tmp")
        with storage_errors(target), self.begin() as source:
            temporary.unlink(missing_ok=True)
            revision = self.revision(source)
            assert revision is not None
            copy = SqliteDatabase(temporary)
            try:
                with copy.filled(revision) as into:
                    copy_rows(source, into)
                    for table, number in self.counted(source).items():
                        copy.count_on(into, table, number)
            finally:
                copy.close()
            settle(temporary, target, self.name)

    def copy_before(self, revision: str) -> Path:
        """Beside the file with its address."""
        return self._path.with_name(f"ledger-before-{revision}.sqlite")

    def close(self) -> None:
        """Let go of the seat, if it is ours, and of the server."""
        self._engine.dispose()

    # -- inside -------------------------------------------------------------------------------------------------

    def _make_engine(self, url: sa.URL) -> sa.Engine:
        application = f"dah on {socket.gethostname()}, process {os.getpid()}"
        arguments: dict[str, Any] = {"connect_timeout": 10, "application_name": application, **_LINE}
        try:
            engine = sa.create_engine(
                url, connect_args=arguments, pool_size=1, max_overflow=0, pool_pre_ping=self._read_only
            )
        except ImportError:
            raise ConfigError(
                f"{self._path} names a PostgreSQL server, for which psycopg is missing: "
                "pip install 'diffusion-at-home[postgres]'"
            ) from None

        @sa.event.listens_for(engine, "do_connect")
        def _connect(*_: Any) -> None:
            if self._seat is not None:
                raise self._lost("its connection is gone")

        @sa.event.listens_for(engine, "connect")
        def _set_up(connection: Any, record: Any) -> None:  # noqa: ARG001
            connection.adapters.register_loader("numeric", _whole_numbers())
            with connection.cursor() as cursor:
                for name, value in _SESSION.items():
                    cursor.execute(f"SET {name} = {value}")
                if cursor.execute("SHOW synchronous_commit").fetchone() == ("off",):
                    cursor.execute("SET synchronous_commit = on")
                if self._read_only:
                    cursor.execute("SET default_transaction_read_only = on")
                    cursor.execute("SET default_transaction_isolation = 'repeatable read'")
            connection.commit()

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            if self._read_only:
                return
            process, _ = connection.exec_driver_sql(_ALONE).one()
            if self._seat not in {None, process}:
                raise self._lost("a pooler deals its transactions out: name the server itself")

        return engine

    def _lost(self, why: str) -> SeatLost:
        return SeatLost(f"{self.name}: this coordinator is no longer the one that may write ({why}): start it again")

    def _meaning(self, error: DBAPIError) -> Exception:
        """What is raised for it."""
        state = getattr(error.orig, "sqlstate", None) or ""
        sentence = " ".join(str(error.orig).split())
        if self._seat is not None and error.connection_invalidated:
            return self._lost(sentence)
        if state.startswith("XX"):
            return damaged(self.name, sentence)
        if state.startswith("42501") or isinstance(error, (sa.exc.OperationalError, sa.exc.InternalError)):
            return StorageError(
                f"{self.name} cannot be used ({sentence}): look at the server, its disk and the line to it"
            )
        return error


def _whole_numbers() -> Any:
    """How sums of whole numbers are read, which are `numeric` there: as whole numbers."""
    from psycopg.adapt import Loader  # noqa: PLC0415 -- only where a server has the ledger

    class WholeNumber(Loader):
        def load(self, data: Any) -> int:
            return int(bytes(data))

    return WholeNumber
