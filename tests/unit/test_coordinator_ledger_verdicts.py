"""What the ledger holds of how deltas count: never written again, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.records import Contribution, Counted, Fault, Lease, LeaseId, LeaseState, Record, Verdict
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.identity import WorkerId
from tests.unit.desk import ANNA, BERT, CARL, a_round, a_version, new_ledger
from tests.unit.one_change import accept, grant

POOL = DataPool(DataCursor(0, 1, 4))


@pytest.fixture
def ledger(ledger_path: Path) -> Iterator[Ledger]:
    with closing(new_ledger(ledger_path)) as ledger:
        ledger.open_round(a_round(1))
        yield ledger


def give(ledger: Ledger, worker: WorkerId, shard: int, sha256: str = "", round_number: int = 1) -> Contribution:
    data = ShardRange(epoch=0, shard=shard, start=0, count=16)
    lease = grant(ledger, Lease(LeaseId(0), worker, 0, (data,), 7, 16, 1e-3, LeaseState.ACTIVE, 1), POOL)
    name = sha256 or f"{lease.lease_id:064}"
    return accept(
        ledger, Contribution(0, lease.lease_id, worker, round_number, data, name, 100, 16, 16.0, 0.5, 1, 1, "ab"), POOL
    )


def verdict(given: Contribution, fault: Fault = Fault.NONE, scale: float = 1.0, weight: float = 16.0) -> Verdict:
    if fault is not Fault.NONE:
        weight = scale = 0.0
    return Verdict(given.lease_id, given.worker_id, given.round_number, weight, scale, 2.5, None, fault)


def test_without_verdicts_all_counts_as_it_came(ledger: Ledger) -> None:
    later, earlier = give(ledger, ANNA, 9), give(ledger, BERT, 2)
    assert ledger.counted(1) == [Counted(earlier, 16.0, 1.0), Counted(later, 16.0, 1.0)]


def test_what_counts_is_what_the_verdicts_say_in_the_order_of_the_data(ledger: Ledger) -> None:
    later, earlier, bad = give(ledger, ANNA, 9), give(ledger, BERT, 2), give(ledger, CARL, 3)
    ledger.add_verdicts([verdict(later, scale=0.25), verdict(earlier, weight=4.0), verdict(bad, Fault.OPPOSED)], POOL)
    assert ledger.counted(1) == [Counted(earlier, 4.0, 1.0), Counted(later, 16.0, 0.25)]
    assert ledger.left_out() == {"opposed": 1}
    assert ledger.images_by_worker(1) == {ANNA: 16, BERT: 16}
    assert len(ledger.contributions(1)) == 3


def test_a_verdict_is_never_written_again(ledger: Ledger) -> None:
    given = give(ledger, ANNA, 1)
    ledger.add_verdicts([verdict(given, Fault.OUTLIER)])
    ledger.add_verdicts([verdict(given)])
    assert ledger.verdicts(1) == [verdict(given, Fault.OUTLIER)]


def test_verdicts_and_the_pool_that_has_the_data_again_are_one_change(ledger: Ledger) -> None:
    given = give(ledger, ANNA, 1)
    again = POOL.give_back([given.first_range])
    ledger.add_verdicts([verdict(given, Fault.COPIED)], again)
    assert ledger.pool() == again


def test_bytes_that_came_before_are_found_whatever_the_round_and_whosever_they_were(ledger: Ledger) -> None:
    first, other = give(ledger, ANNA, 1, "a" * 64), give(ledger, BERT, 2)
    same_round = give(ledger, BERT, 3, "a" * 64)
    ledger.publish(a_version(1))
    ledger.open_round(a_round(2))
    next_round = give(ledger, ANNA, 4, "a" * 64, round_number=2)
    assert ledger.seen_before(1) == {same_round.lease_id}
    assert ledger.seen_before(2) == {next_round.lease_id}
    assert first.lease_id not in ledger.seen_before(1)
    assert other.lease_id not in ledger.seen_before(1)


def test_track_records_count_what_counted_and_the_faults_since(ledger: Ledger) -> None:
    counted = [give(ledger, ANNA, shard) for shard in range(3)]
    bad = [give(ledger, ANNA, 10), give(ledger, BERT, 11), give(ledger, BERT, 12)]
    ledger.add_verdicts([*map(verdict, counted), *(verdict(one, Fault.OPPOSED) for one in bad)])
    give(ledger, CARL, 20)  # nobody has decided on it yet
    assert ledger.track_records() == {ANNA: Record(3, 1, 1), BERT: Record(0, 2, 1), CARL: Record(1, 0, 0)}
    ledger.add_verdicts([verdict(give(ledger, ANNA, 30))])
    assert ledger.track_records()[ANNA] == Record(4, 0, 1)


def test_a_lease_that_was_refused_when_it_came_is_a_fault_without_a_contribution(ledger: Ledger) -> None:
    data = (ShardRange(epoch=0, shard=1, start=0, count=16),)
    lease = grant(ledger, Lease(LeaseId(0), ANNA, 0, data, 7, 16, 1e-3, LeaseState.ACTIVE, 1), POOL)
    ledger.add_verdicts([Verdict(lease.lease_id, ANNA, 1, 0.0, 0.0, 0.0, None, Fault.NOT_FINITE)])
    assert ledger.track_records() == {ANNA: Record(0, 1, 1)}
    assert ledger.counted(1) == []
