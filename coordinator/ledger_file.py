"""The file that a ledger is: SQLite (WAL, full sync), opened, checked, upgraded, copied; and its transactions."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError

from coordinator import tables
from diffusion_at_home import events
from diffusion_at_home.errors import IntegrityError, StorageError, storage_errors
from diffusion_at_home.sync import sync_folder

if TYPE_CHECKING:
    from coordinator.migrations import Migrations

_COPY_SECONDS: Final = 60.0
"""Longest that a copy waits for a writer that has the ledger to itself."""

RecordT = TypeVar("RecordT")
_log = events.logger("coordinator")


class LedgerFile:
    """One run's database, open."""

    def __init__(self, path: Path, *, read_only: bool = False, migrations: Migrations | None = None) -> None:
        """Open the ledger at `path`; an older one is brought to the newest of `migrations`, else of this software's.

        Raises `IntegrityError`, also for an older one that may only be read; `StorageError`.
        """
        if not path.is_file():
            raise IntegrityError(f"{path} does not exist: make a run with `dah coordinator init`")
        self._path = path
        self._engine = _engine(path, read_only=read_only)
        try:
            with self._begin() as tx:
                found = _revision(tx)
            if migrations is None and found == tables.REVISION:
                return
            known = migrations or _our_migrations()
            _check_revision(path, found, known, read_only=read_only)
        except BaseException:  # raised again; the file must not stay open
            self._engine.dispose()
            raise
        if found != known.newest:
            self._engine.dispose()
            _upgrade(path, known)
            _log.info("ledger_upgraded", before=found, revision=known.newest, copy=str(_copy_before(path, known)))

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def check(self) -> None:
        """Read all of the file. Raises `IntegrityError` if it is damaged."""
        with self._begin() as tx:
            found = [str(row) for row in tx.execute(sa.text("PRAGMA quick_check(1)")).scalars()]
        if found != ["ok"]:
            raise IntegrityError(_damaged(self._path, found[0].splitlines()[-1]))

    # -- transactions, for what inherits ------------------------------------------------------------------------

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with _transaction(self._engine, self._path) as tx:
            yield tx

    def _scalar(self, query: sa.Select[Any]) -> Any:
        with self._begin() as tx:
            return tx.execute(query).scalar_one()

    def _records(self, record: type[RecordT], query: sa.Select[Any]) -> list[RecordT]:
        with self._begin() as tx:
            return [record(**row) for row in tx.execute(query).mappings()]


@contextmanager
def empty_ledger(path: Path) -> Iterator[sa.Connection]:
    """A new ledger at `path` with the newest tables, to be filled within: all or nothing. Raises `StorageError`."""
    engine = _engine(path, read_only=False, foreign_keys=False)
    with _transaction(engine, path) as tx:
        _our_migrations().run(tx)
        yield tx
    engine.dispose()


def _damaged(path: Path, what: str) -> str:
    return f"{path} is damaged ({what}): restore it from a backup with `dah coordinator restore`"


def copy_ledger(source: Path, target: Path) -> None:
    """Copy the ledger at `source`, as it is at one instant though a coordinator writes on, to `target`.

    One sound file, which needs no log beside it; durable, and all or nothing. Raises `IntegrityError`, `StorageError`.
    """
    temporary = target.with_suffix(".tmp")
    with _sqlite_errors(source), storage_errors(target):
        temporary.unlink(missing_ok=True)
        with closing(_connected(source, "ro")) as reading, closing(_connected(temporary, "rwc")) as writing:
            reading.backup(writing)  # in one step: the log keeps what it reads while others write
            writing.execute("PRAGMA journal_mode=DELETE")
            (sound,) = writing.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            temporary.unlink()
            raise IntegrityError(_damaged(source, sound))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)


def _our_migrations() -> Migrations:
    """This software's. They load Alembic, which takes a third of a second, and a start hardly ever needs them."""
    from coordinator.migrations import our_migrations  # noqa: PLC0415

    return our_migrations()


def _revision(tx: sa.Connection) -> str | None:
    """Which one the database has; None if it is no ledger."""
    if not sa.inspect(tx).has_table("alembic_version"):
        return None
    found = tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _check_revision(path: Path, found: str | None, known: Migrations, *, read_only: bool) -> None:
    if found is None:
        raise IntegrityError(f"{path} is no ledger: restore it from a backup")
    if not known.knows(found):
        raise IntegrityError(f"{path} has revision {found}, which this software does not know: use newer software")
    if read_only and found != known.newest:
        raise IntegrityError(
            f"{path} has revision {found} instead of {known.newest}: start the coordinator once, which upgrades it"
        )


def _upgrade(path: Path, migrations: Migrations) -> None:
    """Bring an older ledger to the newest revision, all or nothing; what it was stays beside it."""
    copy_ledger(path, _copy_before(path, migrations))
    engine = _engine(path, read_only=False, foreign_keys=False)
    try:
        with _transaction(engine, path) as tx:
            migrations.run(tx)
    finally:
        engine.dispose()


def _copy_before(path: Path, migrations: Migrations) -> Path:
    return path.with_name(f"{path.stem}-before-{migrations.newest}{path.suffix}")


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
        raise IntegrityError(_damaged(path, str(error.orig))) from error


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """The same, of what is done without SQLAlchemy."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path} cannot be copied ({error}): free some space or check the disk") from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(_damaged(path, str(error))) from error


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
