"""The ledger: what it returns from is on disk, and counts once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.data_pool import DataPool
from coordinator.database.opening import database_at
from coordinator.ledger import Ledger
from coordinator.records import Contribution, Lease, LeaseId, LeaseState, RoundState, Totals
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.errors import IntegrityError, StorageError
from tests.unit.desk import ANNA, BERT, SHA, a_round, a_version, a_worker, new_ledger
from tests.unit.one_change import accept, grant

RANGES = (ShardRange(epoch=0, shard=1, start=0, count=10), ShardRange(epoch=0, shard=0, start=4, count=6))
POOL = DataPool(DataCursor(0, 1, 10))
REST = DataPool(DataCursor(0, 1, 10), (RANGES[1],))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(ledger_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(ledger_path)
    ledger.open_round(a_round(1))
    yield ledger
    ledger.close()


def a_lease(ranges: tuple[ShardRange, ...] = RANGES) -> Lease:
    return Lease(LeaseId(0), ANNA, 0, ranges, 7, 16, 1e-3, LeaseState.ACTIVE, 1)


def a_contribution(lease: Lease, images: int = 10) -> Contribution:
    first = lease.ranges[0]
    return Contribution(0, lease.lease_id, ANNA, 1, first, SHA, 100, images, float(images), 0.5, 1000, 1, "")


def test_everything_is_there_after_opening_it_again(ledger: Ledger, ledger_path: Path) -> None:
    lease = grant(ledger, a_lease(), POOL)
    again = Ledger(ledger_path)
    assert again.active_leases() == [lease] == [again.lease(lease.lease_id)]
    assert again.pool() == POOL
    assert again.versions() == [a_version(0)]
    assert again.latest_round() == a_round(1)
    assert {worker.worker_id for worker in again.workers()} >= {ANNA, BERT}
    again.close()


def test_contribution_its_lease_and_the_data_it_left_change_together(ledger: Ledger) -> None:
    lease = grant(ledger, a_lease(), POOL)
    stored = accept(ledger, a_contribution(lease), REST)
    assert stored.contribution_id == 1
    assert ledger.contribution_of(lease.lease_id) == stored
    assert ledger.active_leases() == []
    assert ledger.pool() == REST


def test_lease_that_has_a_contribution_takes_no_second_one_and_nothing_changes(ledger: Ledger) -> None:
    lease = grant(ledger, a_lease(), POOL)
    accept(ledger, a_contribution(lease), REST)
    with pytest.raises(sa.exc.IntegrityError):
        accept(ledger, a_contribution(lease), POOL)
    assert len(ledger.contributions(1)) == 1
    assert ledger.pool() == REST


def test_contributions_come_in_the_order_of_the_data_whatever_the_order_of_arrival(ledger: Ledger) -> None:
    later = grant(ledger, a_lease((ShardRange(epoch=0, shard=10, start=0, count=16),)), POOL)
    earlier = grant(ledger, a_lease((ShardRange(epoch=0, shard=2, start=0, count=16),)), POOL)
    accept(ledger, a_contribution(later), POOL)
    accept(ledger, a_contribution(earlier), POOL)
    assert [contribution.lease_id for contribution in ledger.contributions(1)] == [earlier.lease_id, later.lease_id]


def test_number_of_a_lease_is_never_used_again(ledger: Ledger, ledger_path: Path) -> None:
    first = grant(ledger, a_lease(), POOL)
    database = database_at(ledger_path)
    with closing(database), database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM leases")
    assert grant(ledger, a_lease(), POOL).lease_id > first.lease_id


def test_closing_fixes_a_round_and_its_version_closes_it(ledger: Ledger) -> None:
    lease = grant(ledger, a_lease(), POOL)
    ledger.close_round(1, "time", [lease.lease_id], REST)
    closing = ledger.latest_round()
    assert closing is not None
    assert (closing.state, closing.close_reason) == (RoundState.CLOSING, "time")
    assert [missed.lease_id for missed in ledger.missed_leases(0)] == [lease.lease_id]
    assert ledger.pool() == REST
    ledger.publish(a_version(1, images=16))
    closed = ledger.latest_round()
    assert closed is not None
    assert closed.state is RoundState.CLOSED
    assert ledger.newest_version() == a_version(1, images=16)


def test_worker_that_joins_again_keeps_its_first_join(ledger: Ledger) -> None:
    ledger.join(a_worker(ANNA, token="new"))
    anna = next(worker for worker in ledger.workers() if worker.worker_id == ANNA)
    assert anna.token_sha256.startswith("new")
    assert anna.joined_at_ms == 1


def test_totals_are_sums_of_what_is_there(ledger: Ledger) -> None:
    lease, _ = grant(ledger, a_lease(), POOL), grant(ledger, a_lease(), POOL)
    accept(ledger, a_contribution(lease), POOL)
    ledger.publish(a_version(1))
    assert ledger.totals() == Totals(
        contributions=1, contributors=1, uplink_bytes=100, downlink_bytes=10, joined=3, active_leases=1
    )
    assert ledger.images_by_worker(1) == {ANNA: 10}


def test_reader_sees_what_a_writer_has_stored_and_cannot_write(ledger: Ledger, ledger_path: Path) -> None:
    reader = Ledger(ledger_path, read_only=True)
    lease = grant(ledger, a_lease(), POOL)
    assert reader.active_leases() == [lease]
    with pytest.raises(StorageError, match=r"read-?only"):
        grant(reader, a_lease(), POOL)
    reader.close()


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 1000])
def test_file_that_is_no_ledger_is_named(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"ledger\.sqlite is .*restore it from a backup"):
        Ledger(path)


def test_missing_ledger_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(IntegrityError, match="dah coordinator init"):
        Ledger(path)


def test_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "what? 100%25 #1 & more"
    folder.mkdir()
    new_ledger(folder / "ledger.sqlite").close()
    ledger = Ledger(folder / "ledger.sqlite", read_only=True)
    assert ledger.run_id() == "tiny-00000000"
    ledger.close()
