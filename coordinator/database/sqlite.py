"""A ledger that is a file: SQLite with a write-ahead log, synced at every commit."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DatabaseError, OperationalError

from coordinator.database.base import Database, damaged
from diffusion_at_home.errors import IntegrityError, StorageError, storage_errors
from diffusion_at_home.sync import sync_folder

_COPY_SECONDS: Final = 60.0
"""Longest that a copy waits for a writer that has the ledger to itself."""


class SqliteDatabase(Database):
    """One file, and while it is open those that SQLite keeps beside it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._engine = _engine(path, read_only=read_only)
        self.name = str(path)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """See `Database`."""
        with _transaction(self._engine, self._path) as tx:
            yield tx

    @contextmanager
    def changing_schema(self) -> Iterator[sa.Connection]:
        """See `Database`. Foreign keys are off within, or rebuilding a table would take along the rows that refer to it."""
        self._engine.dispose()
        engine = _engine(self._path, read_only=False, foreign_keys=False)
        try:
            with _transaction(engine, self._path) as tx:
                before = self.counted(tx)
                yield tx
                self._count_on_as_before(tx, before)
                if broken := tx.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise IntegrityError(
                        f"the upgrade leaves a row of {broken[0]} that refers to nothing: use other software"
                    )
        finally:
            engine.dispose()

    def insert(self, table: sa.Table) -> sqlite.Insert:
        """See `Database`."""
        return sqlite.insert(table)

    def counted(self, tx: sa.Connection) -> dict[str, int]:
        """See `Database`."""
        if not sa.inspect(tx).has_table("sqlite_sequence"):
            return {}
        return {str(name): int(number) for name, number in tx.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")}

    def count_on(self, tx: sa.Connection, table: str, number: int) -> None:
        """See `Database`."""
        tx.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        tx.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    def check(self) -> None:
        """Read all of the file. Raises `IntegrityError`."""
        with self.begin() as tx:
            found = [str(row) for row in tx.execute(sa.text("PRAGMA quick_check(1)")).scalars()]
        if found != ["ok"]:
            raise damaged(self.name, found[0].splitlines()[-1])

    def take_seat(self, patience: timedelta) -> None:
        """Nothing to do: who holds the folder's lock is alone with the file."""

    def hold_seat(self) -> bool:
        """It cannot be taken away."""
        return False

    def copy_to(self, target: Path) -> None:
        """See `Database`; a coordinator may write on meanwhile."""
        temporary = target.with_suffix(".tmp")
        with _sqlite_errors(self._path), storage_errors(target):
            temporary.unlink(missing_ok=True)
            with closing(_connected(self._path, "ro")) as reading, closing(_connected(temporary, "rwc")) as writing:
                reading.backup(writing)  # in one step: the log keeps what it reads while others write
            settle(temporary, target, self.name)

    def copy_before(self, revision: str) -> Path:
        """Beside it."""
        return self._path.with_name(f"{self._path.stem}-before-{revision}{self._path.suffix}")

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def _count_on_as_before(self, tx: sa.Connection, before: dict[str, int]) -> None:
        """Rebuilding a table makes it forget what it has counted to above its rows."""
        tables, now = set(sa.inspect(tx).get_table_names()), self.counted(tx)
        for name, number in before.items():
            if name in tables and now.get(name, 0) < number:
                self.count_on(tx, name, number)


def settle(temporary: Path, target: Path, source: str) -> None:
    """Give a copy of the ledger `source` its name, once it is one sound file that needs no log beside it, and durable.

    Raises `IntegrityError`.
    """
    with closing(_connected(temporary, "rw")) as file:
        file.execute("PRAGMA journal_mode=DELETE")
        (sound,) = file.execute("PRAGMA integrity_check(1)").fetchone()
    if sound != "ok":
        temporary.unlink()
        raise damaged(source, sound)
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(target)
    sync_folder(target.parent)


@contextmanager
def _transaction(engine: sa.Engine, path: Path) -> Iterator[sa.Connection]:
    try:
        with engine.begin() as tx:
            yield tx
    except OperationalError as error:
        raise StorageError(f"{path} cannot be used ({error.orig}): free some space or check the disk") from error
    except sa.exc.IntegrityError:
        raise
    except DatabaseError as error:
        raise damaged(str(path), error.orig) from error


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """The same, of what is done without SQLAlchemy."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path} cannot be copied ({error}): free some space or check the disk") from error
    except sqlite3.DatabaseError as error:
        raise damaged(str(path), error) from error


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}"


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{_uri(path)}?mode={mode}", uri=True, timeout=_COPY_SECONDS)


def _engine(path: Path, *, read_only: bool, foreign_keys: bool = True) -> sa.Engine:
    mode = "ro" if read_only else "rwc"
    url = sa.URL.create("sqlite", database=_uri(path), query={"mode": mode, "uri": "true"})
    engine = sa.create_engine(url, connect_args={"timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, record: Any) -> None:  # noqa: ARG001
        connection.isolation_level = None  # or the driver would begin where it likes, and commit before each DDL
        cursor = connection.cursor()
        if not read_only:
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # At once the one who writes: what has read first could not write any more once the operator's command has.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
