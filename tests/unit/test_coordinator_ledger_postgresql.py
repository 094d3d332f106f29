"""A ledger in a PostgreSQL server: one coordinator, which writes nothing once another may be it; and the way there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from coordinator import tables
from coordinator.data_pool import DataPool
from coordinator.database.address import parse_address, told
from coordinator.database.opening import copy_ledger, database_at
from coordinator.ledger import Ledger
from coordinator.ledger_move import move_back, move_to_server
from coordinator.records import Contribution, Lease, LeaseId, LeaseState
from coordinator.run_folder import RunFolder
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.errors import ConfigError, SeatLost, StorageError
from tests.postgres_server import PostgresServer
from tests.unit.desk import ANNA, SHA, a_round, a_version, a_worker, new_ledger
from tests.unit.one_change import accept, grant
from tests.unit.test_coordinator_migrations import FAILS, content, trial

AT_ONCE = timedelta(0)
DATA = (ShardRange(epoch=0, shard=2, start=0, count=16),)
POOL = DataPool(DataCursor(0, 1, 4))


@pytest.fixture
def path(postgres: PostgresServer, tmp_path: Path) -> Path:
    """Of a ledger with rows, one of them a contribution that refers to a lease."""
    path = tmp_path / "ledger.url"
    path.write_text(postgres.new_place())
    with closing(new_ledger(path)) as ledger:
        fill(ledger)
    return path


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(Ledger(path)) as opened:
        yield opened


def fill(ledger: Ledger) -> None:
    ledger.open_round(a_round(1))
    for _ in range(3):
        a_grant(ledger)
    accept(ledger, Contribution(0, LeaseId(1), ANNA, 1, DATA[0], SHA, 100, 10, 10.0, 0.5, 1000, 1, ""), POOL)


def a_grant(ledger: Ledger) -> Lease:
    return grant(ledger, Lease(LeaseId(0), ANNA, 0, DATA, 7, 16, 1e-3, LeaseState.ACTIVE, 1), POOL)


def everything(path: Path, scratch: Path) -> object:
    """The revision and every row, however the ledger is kept."""
    copy_ledger(path, scratch)
    return content(scratch)


def test_the_revisions_make_the_tables_that_the_code_uses(path: Path) -> None:
    with closing(database_at(path, read_only=True)) as database, database.begin() as tx:
        assert compare_metadata(MigrationContext.configure(tx), tables.metadata) == []


# -- the seat -----------------------------------------------------------------------------------------------------------


def test_a_ledger_has_one_coordinator_and_others_write_what_is_theirs(path: Path, ledger: Ledger) -> None:
    ledger.take_seat()
    with closing(Ledger(path)) as other:
        with pytest.raises(ConfigError, match=r"has a coordinator already \(dah on .*process \d+\): stop it first"):
            other.take_seat(AT_ONCE)
        other.join(a_worker(ANNA, token="new"))  # as an operator's command does
        assert ledger.hold_seat()
        ledger.close()
        other.take_seat()


def test_coordinator_that_was_cut_off_writes_nothing_more(postgres: PostgresServer, path: Path, ledger: Ledger) -> None:
    ledger.take_seat()
    postgres.break_line()
    with closing(Ledger(path)) as other:
        other.take_seat()
        before = other.totals()
        for _ in range(2):  # it does not come back by itself
            with pytest.raises(SeatLost, match="no longer the one that may write"):
                a_grant(ledger)
        with pytest.raises(SeatLost):
            ledger.hold_seat()
        assert other.totals() == before
        a_grant(other)


def test_what_was_not_committed_when_the_line_broke_was_never_written(
    postgres: PostgresServer, path: Path, ledger: Ledger
) -> None:
    ledger.take_seat()

    def write_and_be_cut_off() -> None:
        with ledger._database.begin() as tx:
            tx.execute(sa.delete(tables.contributions))
            postgres.break_line()

    with pytest.raises(SeatLost):
        write_and_be_cut_off()
    with closing(Ledger(path, read_only=True)) as reader:
        assert reader.totals().contributions == 1


def test_server_that_starts_again_has_lost_nothing_and_its_readers_go_on(
    postgres: PostgresServer, path: Path, ledger: Ledger
) -> None:
    ledger.take_seat()
    with closing(Ledger(path, read_only=True)) as reader:
        lease = a_grant(ledger)
        postgres.stop()
        with pytest.raises(StorageError, match="look at the server"):
            reader.lease(lease.lease_id)
        postgres.start()
        assert reader.lease(lease.lease_id) == lease
        with pytest.raises(SeatLost):
            a_grant(ledger)


def test_server_that_does_not_sync_is_refused(postgres: PostgresServer, ledger: Ledger) -> None:
    ledger.check()
    postgres.set("full_page_writes", "off")
    try:
        with pytest.raises(ConfigError, match="full_page_writes off, and may lose what it has said to keep"):
            ledger.check()
    finally:
        postgres.set("full_page_writes", "on")


# -- moving, copying, upgrading -----------------------------------------------------------------------------------------


def test_ledger_moves_to_a_server_and_back_and_is_the_same(postgres: PostgresServer, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    with closing(new_ledger(folder.ledger)) as ledger:
        fill(ledger)
        ledger.skip_numbers(1000)
    before = everything(folder.ledger, tmp_path / "before.sqlite")
    place = postgres.new_place()
    moved = move_to_server(folder, place)
    assert (moved.version, moved.contributions) == (0, 1)
    assert folder.ledger == folder.ledger_url
    assert folder.ledger_url.stat().st_mode & 0o077 == 0
    assert not folder.ledger_file.exists()
    with pytest.raises(ConfigError, match="a server has the ledger already"):
        move_to_server(folder, place)
    assert everything(folder.ledger, tmp_path / "there.sqlite") == before
    with closing(Ledger(folder.ledger)) as ledger:
        assert a_grant(ledger).lease_id == 1004, "a number that was skipped is given"
        ledger.publish(a_version(1))
    after = everything(folder.ledger, tmp_path / "after.sqlite")
    assert move_back(folder).version == 1
    assert folder.ledger == folder.ledger_file
    assert content(folder.ledger) == after != before
    with pytest.raises(ConfigError, match="holds a ledger already: name an empty database"):
        move_to_server(folder, place)
    assert content(folder.ledger) == after
    assert not folder.ledger_url.exists()


def test_copy_is_one_file_that_a_coordinator_can_start_from(path: Path, tmp_path: Path) -> None:
    copy_ledger(path, tmp_path / "ledger.sqlite")
    with closing(Ledger(tmp_path / "ledger.sqlite")) as copied, closing(Ledger(path)) as ledger:
        assert copied.contributions(1) == ledger.contributions(1)
        assert a_grant(copied).lease_id == a_grant(ledger).lease_id == 4


def test_older_ledger_is_upgraded_and_a_copy_stays(path: Path, tmp_path: Path) -> None:
    before = everything(path, tmp_path / "before.sqlite")
    with pytest.raises(ValueError, match="half-way"):
        Ledger(path, migrations=trial(tmp_path / "fails", FAILS))
    assert everything(path, tmp_path / "same.sqlite") == before
    Ledger(path, migrations=trial(tmp_path / "trial")).close()
    assert content(tmp_path / "ledger-before-trial.sqlite") == before
    with closing(database_at(path)) as database, database.begin() as tx:
        assert database.revision(tx) == "trial"
        assert tx.exec_driver_sql("SELECT country FROM workers").scalars().all() == ["XX"] * 3
        assert tx.exec_driver_sql("SELECT images FROM leases").scalars().all() == [16] * 3


# -- its address --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mysql://anna@here/runs", "begins with 'mysql': it must be postgresql://"),
        ("postgresql://anna:secret@here", "names no database"),
        ("secret", "cannot be read"),
    ],
)
def test_address_that_is_none_is_refused_without_repeating_it(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        parse_address(text)
    assert "secret" not in str(refused.value)


def test_password_is_not_told() -> None:
    url = parse_address("postgresql://anna:secret@here:5433/runs?options=-csearch_path%3Ddigits&sslpassword=hidden\n")
    assert told(url) == "postgresql://anna:***@here:5433/runs (options=-csearch_path=digits)"


def test_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    path = tmp_path / "ledger.url"
    path.write_text("postgresql://anna:secret@127.0.0.1:1/runs")
    with pytest.raises(StorageError, match=r"postgresql://anna:\*\*\*@127\.0\.0\.1:1/runs cannot be used") as refused:
        Ledger(path)
    assert "secret" not in str(refused.value)
