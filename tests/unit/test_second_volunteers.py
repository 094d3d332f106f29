"""Leases that a second volunteer gets: to it, and to the data, as if they were any other's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from coordinator.closing import CloseReason
from coordinator.dispatcher import IdleReason
from coordinator.fleet import Origin
from coordinator.records import Lease, LeaseState
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.identity import WorkerId
from tests.unit.desk import ANNA, BERT, CARL, Desk
from tests.unit.tiny_run import tiny_config

SHARE = "audit.second_volunteer_share=0.2"
ANYWHERE = Origin()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One whose budget is a whole round, so that what can be trained again is."""
    with Desk(tmp_path / "ledger.sqlite", SHARE) as made:
        for number in range(1, 5):
            made.open(number)
            made.close()
        yield made


def ask(desk: Desk, worker: WorkerId, origin: Origin = ANYWHERE) -> Lease | IdleReason:
    desk.dispatcher.greet(worker, 0.0, 1, origin)
    return desk.run(desk.dispatcher.grant(worker))


def lease(desk: Desk, worker: WorkerId, origin: Origin = ANYWHERE) -> Lease:
    found = ask(desk, worker, origin)
    assert isinstance(found, Lease)
    return found


def pair(desk: Desk) -> tuple[Lease, Lease]:
    """Anna's and Bert's, who trains it again: of a round that has no other data."""
    desk.open(5, target_images=16)
    first, second = lease(desk, ANNA), lease(desk, BERT)
    assert (second.second_of, second.worker_id) == (first.lease_id, BERT)
    return first, second


def test_the_second_one_has_the_same_terms_and_takes_nothing_from_the_data(desk: Desk) -> None:
    first, second = pair(desk)
    same = ("base_version", "ranges", "seed", "quota_images", "learning_rate", "state")
    assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]
    assert ask(desk, CARL) is IdleReason.ROUND_FULL  # each lease once
    assert (desk.dispatcher.progress.leased_images, desk.dispatcher.progress.second_images) == (16, 16)
    desk.release(second)
    assert desk.ledger.pool().returned == ()
    desk.release(first)
    assert desk.ledger.pool().returned == first.ranges


def test_both_have_their_receipt_and_only_the_first_is_in_the_mean(desk: Desk) -> None:
    first, second = pair(desk)
    receipts = [desk.accept(second), desk.accept(first)]
    assert [receipt.images for receipt in receipts] == [16, 16]
    assert [counted.contribution.lease_id for counted in desk.ledger.counted(5)] == [first.lease_id]
    assert desk.dispatcher.progress.accepted_images == 16
    assert desk.dispatcher.close_reason() is CloseReason.TARGET
    assert desk.ledger.images_by_worker(5) == {ANNA: 16, BERT: 16}


def test_a_round_waits_for_a_second_one_for_its_grace_alone(desk: Desk) -> None:
    first, _ = pair(desk)
    desk.clock.advance(10.0)
    desk.accept(first)
    assert desk.dispatcher.close_reason() is None
    left = desk.dispatcher.seconds_to_close()
    assert left is not None
    assert 0 < left < 90
    desk.clock.advance(left)
    assert desk.dispatcher.close_reason() is CloseReason.TARGET
    desk.close()
    assert desk.ledger.pool().returned == ()


def test_what_was_handed_in_is_trained_again_as_far_as_it_was_trained(desk: Desk) -> None:
    desk.open(5, target_images=16)
    first = lease(desk, ANNA)
    desk.accept(first, images=8)
    second = lease(desk, BERT)
    if second.second_of == 0:  # what was left of the data
        desk.accept(second)
        second = lease(desk, CARL)
    assert second.second_of != 0
    assert second.quota_images == 8


def test_what_the_first_one_gives_back_is_trained_by_others_whoever_has_it_a_second_time(desk: Desk) -> None:
    first, second = pair(desk)
    desk.release(first)
    again = lease(desk, CARL)
    assert (again.ranges, again.second_of) == (first.ranges, 0)
    desk.accept(second)
    desk.accept(again)
    assert [counted.contribution.lease_id for counted in desk.ledger.counted(5)] == [again.lease_id]


@pytest.mark.parametrize(
    ("anna", "bert"),
    [(Origin("192.0.2.1"), Origin("192.0.2.1")), (Origin("192.0.2.1", "team"), Origin("192.0.2.2", "team"))],
)
def test_nobody_is_a_second_volunteer_of_its_own_address_or_team(desk: Desk, anna: Origin, bert: Origin) -> None:
    desk.open(5, target_images=16)
    first = lease(desk, ANNA, anna)
    assert ask(desk, BERT, bert) is IdleReason.ROUND_FULL
    desk.accept(first)
    assert ask(desk, ANNA, Origin("192.0.2.3")) is IdleReason.ROUND_FULL
    assert lease(desk, CARL, Origin("192.0.2.2", "other")).second_of == first.lease_id


def test_a_restart_knows_the_two_apart(desk: Desk) -> None:
    first, second = pair(desk)
    desk.restart(5)
    assert (desk.dispatcher.progress.leased_images, desk.dispatcher.progress.second_images) == (16, 16)
    desk.accept(second)
    desk.restart(5)
    assert desk.dispatcher.progress.accepted_images == 0
    desk.accept(first)
    assert desk.dispatcher.progress.accepted_images == 16


def test_like_bytes_of_the_two_are_no_copy_and_those_of_a_third_are(desk: Desk) -> None:
    desk.open(5, target_images=32)
    leases = {found.lease_id: found for found in (lease(desk, worker) for worker in (ANNA, BERT, CARL))}
    (second,) = (found for found in leases.values() if found.is_second)
    first = leases[second.second_of]
    desk.accept(second, sha256="b" * 64)
    desk.accept(first, sha256="b" * 64)
    assert desk.ledger.seen_before(5) == set()
    (other,) = (found for found in leases.values() if found not in (first, second))
    desk.accept(other, sha256="b" * 64)
    assert desk.ledger.seen_before(5) == {other.lease_id}


def test_no_more_is_trained_again_than_the_share_nor_much_less_and_nobody_is_led_back(tmp_path: Path) -> None:
    workers, again, counted = cycle((ANNA, BERT, CARL)), 0, 0
    with Desk(
        tmp_path / "ledger.sqlite", "audit.second_volunteer_share=0.1", "lease.max_steps=2", "round.quorum=1.0"
    ) as desk:
        for number in range(1, 21):
            desk.open(number)
            had: dict[WorkerId, int] = {}
            while desk.dispatcher.progress.unleased_images:
                found = lease(desk, next(workers))
                place = found.second_of or found.lease_id  # in the order of the data
                assert place > had.get(found.worker_id, 0)
                had[found.worker_id] = place
                again += found.quota_images * found.is_second
                counted += found.quota_images * (not found.is_second)
                assert again <= 0.1 * number * 64
                desk.accept(found, sha256=f"{found.lease_id:064}")
            desk.close()
    assert counted == 20 * 64
    assert again >= 0.08 * counted


def test_with_the_share_at_nothing_no_lease_is_given_twice(tmp_path: Path) -> None:
    with Desk(tmp_path / "ledger.sqlite") as desk:
        desk.open(1, target_images=16)
        lease(desk, ANNA)
        assert ask(desk, BERT) is IdleReason.ROUND_FULL
        assert desk.dispatcher.progress.second_images == 0


def test_a_missed_second_one_is_never_late(tmp_path: Path) -> None:
    with Desk(tmp_path / "ledger.sqlite", SHARE, "round.late_weight=0.5") as desk:
        for number in range(1, 5):
            desk.open(number)
            desk.close()
        first, second = pair(desk)
        desk.accept(first)
        desk.close()
        assert desk.dispatcher.expected() == set()
        stored = desk.ledger.lease(second.lease_id)
        assert stored == dataclasses.replace(second, state=LeaseState.MISSED)


def test_a_run_with_error_feedback_has_no_second_volunteers() -> None:
    with pytest.raises(ConfigError, match=r"set audit\.second_volunteer_share to 0\.0"):
        tiny_config(SHARE, "codec.delta='sparse'", "codec.feedback=0.95")
