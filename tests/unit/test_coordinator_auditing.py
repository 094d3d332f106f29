"""What is recomputed, and what follows from it."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.auditing import Conduct, Docket, share
from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.records import ActionKind, Audited, Contribution, Lease, LeaseId, LeaseState
from coordinator.standing import Standing
from diffusion_at_home.config.trust import AuditSection, ScreeningSection
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.identity import WorkerId
from tests.unit.desk import ANNA, BERT, SHA, a_round, a_version, new_ledger
from tests.unit.one_change import accept, grant

SECTION = AuditSection()
POOL = DataPool(DataCursor(0, 1, 4))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(new_ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def give(ledger: Ledger, worker: WorkerId, number: int, *, closed: bool = True) -> LeaseId:
    """A contribution to round `number`, which is closed with it."""
    data = (ShardRange(epoch=0, shard=2, start=0, count=16),)
    ledger.open_round(a_round(number))
    lease = grant(ledger, Lease(LeaseId(0), worker, number - 1, data, 7, 16, 1e-3, LeaseState.ACTIVE, 1), POOL)
    accept(
        ledger,
        Contribution(0, lease.lease_id, worker, number, data[0], SHA, 100, 16, 16.0, 0.5, 1000, 10 * number, ""),
        POOL,
    )
    if closed:
        ledger.close_round(number, "target", [], POOL)
        ledger.publish(a_version(number, 16 * number))
    return lease.lease_id


def docket(ledger: Ledger) -> Docket:
    return Docket(ledger, SECTION, random.Random(0))


def found(worker: WorkerId, lease: LeaseId, agrees: bool, at_ms: int = 1) -> Audited:
    return Audited(lease, worker, agrees, 0.999 if agrees else 0.1, 1.0, at_ms)


def test_a_newcomer_is_looked_at_each_time_and_then_less_and_less() -> None:
    conduct = Conduct()
    shares = []
    for _ in range(100):
        shares.append(share(conduct, SECTION))
        conduct.learn(True)
    assert shares[: SECTION.first] == [1.0] * SECTION.first
    assert shares[SECTION.first :] == sorted(shares[SECTION.first :], reverse=True)
    assert shares[-1] == SECTION.least_share
    conduct.learn(False)
    assert share(conduct, SECTION) == 1.0


def test_only_what_closed_rounds_have_is_drawn_and_once(ledger: Ledger) -> None:
    first, second = give(ledger, ANNA, 1), give(ledger, BERT, 2)
    give(ledger, ANNA, 3, closed=False)
    drawn = docket(ledger)
    assert [drawn.next() for _ in range(3)] == [first, second, None]
    drawn.found(found(ANNA, first, True), "")
    assert [docket(ledger).next(), docket(ledger).next()] == [second, second]  # another process, which reads the ledger


def test_when_the_run_has_gone_back_all_that_led_there_is_recomputed(ledger: Ledger) -> None:
    for number in range(1, 61):
        give(ledger, ANNA, number)
    drawn = docket(ledger)
    while (lease := drawn.next()) is not None:
        drawn.found(found(ANNA, lease, True), "")
    assert len(ledger.audits()) < 40
    ledger.open_round(a_round(61))
    ledger.publish(dataclasses.replace(a_version(61, 16 * 55), back_to=55, action_id=1))
    suspects = []
    while (lease := drawn.next()) is not None:
        suspects.append(lease)
        drawn.found(found(ANNA, lease, True), "")
    looked_at = {audited.lease_id for audited in ledger.audits()}
    assert {contribution.lease_id for n in range(56, 61) for contribution in ledger.contributions(n)} <= looked_at
    assert len(suspects) == len(set(suspects)) <= 5


def test_one_that_disagrees_is_a_newcomer_again_the_second_is_banned(ledger: Ledger) -> None:
    leases = [give(ledger, ANNA, number) for number in range(1, 14)]
    assert not Standing(ScreeningSection(), ledger.track_records()).is_newcomer(ANNA)
    drawn = docket(ledger)
    drawn.found(found(ANNA, leases[0], False), "cosine 0.1")
    (action,) = ledger.actions()
    assert (action.kind, action.subject) == (ActionKind.DISTRUST, ANNA)
    assert f"lease {leases[0]} was not what it should have come to (cosine 0.1)" in action.note
    assert Standing(ScreeningSection(), ledger.track_records()).is_newcomer(ANNA)
    docket(ledger).found(found(ANNA, leases[1], False), "cosine 0.1")  # by another process
    assert ledger.actions()[-1].kind is ActionKind.BAN
    assert ledger.images_by_worker(13) == {ANNA: 11 * 16}
    assert docket(ledger).next() is None


def test_an_honest_fleet_costs_little_and_a_lazy_one_is_soon_found() -> None:
    chance, looks = random.Random(0), Counter[str]()
    for _ in range(200):
        conduct = Conduct()
        for _ in range(2_000):
            if chance.random() < share(conduct, SECTION):
                conduct.learn(True)
                looks["honest"] += 1
    assert looks["honest"] / (200 * 2_000) <= 0.05
    until_banned = []
    for _ in range(1_000):
        conduct, leases = Conduct(), 0
        while conduct.disagreed < SECTION.strikes:  # it trains every other lease
            leases += 1
            if chance.random() < share(conduct, SECTION):
                conduct.learn(leases % 2 == 0)
        until_banned.append(leases)
    assert max(until_banned) <= 60
