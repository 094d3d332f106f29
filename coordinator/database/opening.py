"""Which engine has a ledger: told by the name of the file that stands for it."""

from __future__ import annotations

from pathlib import Path

from coordinator.database.address import SUFFIX
from coordinator.database.base import Database
from coordinator.database.sqlite import SqliteDatabase


def database_at(path: Path, *, read_only: bool = False) -> Database:
    """The ledger that `path` is, or whose address it holds; nothing is read yet. Raises `ConfigError`."""
    if path.suffix != SUFFIX:
        return SqliteDatabase(path, read_only=read_only)
    from coordinator.database.postgresql import PostgresqlDatabase  # noqa: PLC0415 -- hardly any run needs its half second

    return PostgresqlDatabase(path, read_only=read_only)


def copy_ledger(source: Path, target: Path) -> None:
    """Copy the ledger at `source`, as it is at one instant though a coordinator writes on, to the file `target`.

    One sound file, which needs no log beside it; durable, and all or nothing. Raises `IntegrityError`, `StorageError`.
    """
    database = database_at(source, read_only=True)
    try:
        database.copy_to(target)
    finally:
        database.close()
