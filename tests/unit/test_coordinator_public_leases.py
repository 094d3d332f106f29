"""What is published of leases: closed rounds alone, page by page, and the shortest way to each version."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.data_pool import DataPool
from coordinator.lease_queries import HandedIn
from coordinator.ledger import Ledger
from coordinator.public_leases import way_start
from coordinator.records import Contribution, Fault, Lease, LeaseId, LeaseState, Verdict
from diffusion_at_home.audit.records import MAX_STEPS
from diffusion_at_home.data.order import DataCursor, ShardRange
from tests.unit.desk import ANNA, BERT, SHA, a_round, a_version, a_worker, new_ledger
from tests.unit.one_change import accept, grant

POOL = DataPool(DataCursor(0, 0, 0))
SHOWN = ("cd" * 32, "ef" * 32, "12" * 32, 500)
RANGES = (ShardRange(epoch=0, shard=1, start=0, count=10), ShardRange(epoch=0, shard=0, start=4, count=6))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(new_ledger(tmp_path / "ledger.sqlite")) as made:
        for number in (1, 2):
            made.open_round(a_round(number))
        yield made


def hand_in(ledger: Ledger, *, base: int = 0, round_number: int = 1) -> LeaseId:
    lease = grant(ledger, Lease(LeaseId(0), ANNA, base, RANGES, 7, 16, 1e-3, LeaseState.ACTIVE, 1), POOL)
    given = Contribution(
        0, lease.lease_id, ANNA, round_number, RANGES[0], SHA, 100, 10, 10.0, 0.5, 1000, 1, "ab" * 64, *SHOWN, "exact"
    )
    accept(ledger, given, POOL)
    return lease.lease_id


def test_a_contribution_is_told_with_its_lease_its_key_and_its_verdict(ledger: Ledger) -> None:
    counted, left_out = hand_in(ledger), hand_in(ledger)
    ledger.add_verdicts([Verdict(left_out, ANNA, 1, 0.0, 0.0, 2.0, -0.5, Fault.OPPOSED)])
    key = a_worker(ANNA).public_key
    first, second = ledger.handed_in(1, 0, 10)
    assert first == HandedIn(
        counted, 1, ANNA, key, 0, RANGES, 7, 1e-3, 10, SHA, 100, "ab" * 64, "exact", 10.0, Fault.NONE, *SHOWN, 0
    )
    assert (second.lease_id, second.weight, second.fault) == (left_out, 0.0, Fault.OPPOSED)
    assert ledger.handed_in_for(left_out) == second


def test_pages_follow_each_other_in_the_order_of_leases(ledger: Ledger) -> None:
    numbers = [hand_in(ledger) for _ in range(5)]
    late = hand_in(ledger, base=0, round_number=2)
    pages = [ledger.handed_in(1, after, 2) for after in (0, numbers[1], numbers[3], numbers[4])]
    assert [[one.lease_id for one in page] for page in pages] == [numbers[:2], numbers[2:4], numbers[4:], []]
    assert [(one.lease_id, one.base_version) for one in ledger.handed_in(2, 0, 10)] == [(late, 0)]


def test_a_lease_without_a_contribution_and_one_that_is_none_are_not_told_of(ledger: Ledger) -> None:
    lease = grant(ledger, Lease(LeaseId(0), BERT, 0, RANGES, 7, 16, 1e-3, LeaseState.ACTIVE, 1), POOL)
    assert ledger.handed_in_for(lease.lease_id) is None
    assert ledger.handed_in_for(2**70) is None


@pytest.mark.parametrize(
    ("version", "snapshots", "updates_since", "start"),
    [
        (5, [0], 0, 0),
        (5, [0, 3, 7], 0, 3),
        (7, [0, 3, 7], 0, 7),
        (5, [7, 9], 0, 0),  # the seed
        (5, [7, 9], 2, None),  # some updates from the seed are gone
        (8, [7, 9], 7, 7),
        (8, [7, 9], 8, None),
        (9, [7, 9], 9, 9),
        (0, [], 4, 0),
        (MAX_STEPS - 1, [0], 0, 0),
        (MAX_STEPS, [0], 0, None),
    ],
)
def test_the_way_begins_where_the_fewest_updates_are_left(
    version: int, snapshots: list[int], updates_since: int, start: int | None
) -> None:
    history = [a_version(number) for number in range(version + 1)]
    assert way_start(version, history, snapshots, updates_since) == start


def test_no_way_leads_over_a_version_that_went_back_but_one_begins_there() -> None:
    history = [a_version(number) for number in range(7)]
    history[4] = dataclasses.replace(history[4], back_to=1)
    assert [way_start(version, history, [0], 0) for version in range(7)] == [0, 0, 0, 0, None, None, None]
    assert [way_start(version, history, [0, 4], 0) for version in range(7)] == [0, 0, 0, 0, 4, 4, 4]
