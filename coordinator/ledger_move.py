"""Moves a run's ledger from its file to a PostgreSQL server, or back, while nobody serves the run.

All or nothing: the ledger is where the run's folder says, which is changed last. What was left stays for people to delete: the
file under another name, or the tables in the server.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Final

from coordinator import tables
from coordinator.database.address import parse_address, read_address, write_address
from coordinator.database.copying import copy_rows
from coordinator.database.opening import database_at
from coordinator.ledger import Ledger
from coordinator.open_ledger import SEAT_PATIENCE
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.sync import sync_folder

_LEFT: Final = "ledger-moved.sqlite"


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a ledger is now."""

    run_id: str
    ledger: str
    """Without a password."""
    left: str
    """What it was copied from, of which nothing is read any more."""
    version: int
    contributions: int


def move_to_server(folder: RunFolder, address: str) -> Moved:
    """Copy the ledger to the database `address`, which must be empty, and let the run have it there.

    Raises `ConfigError`, `IntegrityError`, `StorageError`; the run is then as it was.
    """
    url = parse_address(address)
    with folder.locked():
        if folder.ledger_url.is_file():
            raise ConfigError("a server has the ledger already: move it back first, with --back")
        with closing(Ledger(folder.ledger)) as ledger:  # one of older software is upgraded here
            ledger.check()
        draft = folder.ledger_url.with_suffix(f".new{folder.ledger_url.suffix}")
        write_address(draft, url)
        try:
            here, there = database_at(folder.ledger), database_at(draft)
            with closing(here), closing(there):
                there.check()
                with here.begin() as source, there.filled(tables.REVISION) as target:
                    copy_rows(source, target)
                    for table, number in here.counted(source).items():
                        there.count_on(target, table, number)
            with storage_errors(folder.root):
                draft.rename(folder.ledger_url)
                sync_folder(folder.root)
                folder.ledger_file.rename(folder.root / _LEFT)
        finally:
            draft.unlink(missing_ok=True)
        return _moved(folder, there.name, str(folder.root / _LEFT))


def move_back(folder: RunFolder) -> Moved:
    """Copy the ledger from its server to a file, and let the run have it there. Raises as `move_to_server`."""
    with folder.locked():
        if not folder.ledger_url.is_file():
            raise ConfigError(f"the ledger is a file already: {folder.ledger_file}")
        read_address(folder.ledger_url)
        with closing(Ledger(folder.ledger_url)):  # as above
            pass
        with closing(database_at(folder.ledger_url)) as there:
            there.take_seat(SEAT_PATIENCE)
            there.copy_to(folder.ledger_file)
        with storage_errors(folder.root):
            folder.ledger_url.unlink()
            sync_folder(folder.root)
        return _moved(folder, str(folder.ledger_file), there.name)


def _moved(folder: RunFolder, now: str, left: str) -> Moved:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        newest, totals = ledger.newest_version(), ledger.totals()
        return Moved(ledger.run_id(), now, left, newest.version, totals.contributions)
