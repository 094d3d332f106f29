"""Who works on what, with a real ledger and a manual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.closing import CloseReason
from coordinator.dispatcher import IdleReason, Order
from coordinator.hand_in import Work
from coordinator.records import Contribution, Lease, LeaseState
from coordinator.refused import Refused
from diffusion_at_home.rpc.coordinator_pb2 import Refusal
from tests.unit.desk import ANNA, BERT, CARL, Desk, new_ledger, work

TIMEOUT = 100.0  # lease.timeout_seconds
LATE = "round.late_weight=0.25"


@pytest.fixture
def desk(ledger_path: Path) -> Iterator[Desk]:
    if ledger_path.exists():  # a server's address
        new_ledger(ledger_path).close()
    with Desk(ledger_path) as desk:
        desk.open()
        yield desk


@pytest.fixture
def late_desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path / "ledger.sqlite", LATE) as desk:
        desk.open()
        yield desk


def refusal_of(refused: pytest.ExceptionInfo[Refused]) -> Refusal:
    return refused.value.refusal


def test_nothing_is_granted_while_no_round_is_open(tmp_path: Path) -> None:
    with Desk(tmp_path / "ledger.sqlite") as desk:
        assert desk.ask(ANNA) is IdleReason.CLOSING


def test_lease_and_what_is_left_of_the_data_are_stored_together(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    assert lease.quota_images == sum(part.count for part in lease.ranges) == 16
    assert desk.ledger.active_leases() == [lease]
    after, _ = desk.ledger.pool().take(16, seed=0, shard_sizes=(24, 40, 32))
    assert not set(after) & set(lease.ranges)


def test_no_more_is_leased_than_the_round_needs(tmp_path: Path) -> None:
    with Desk(tmp_path / "ledger.sqlite") as desk:
        desk.open(target_images=24)
        leases = [desk.lease(worker) for worker in (ANNA, BERT)]
        assert sum(lease.quota_images for lease in leases) == 24
        assert desk.ask(CARL) is IdleReason.ROUND_FULL


def test_early_worker_gets_a_further_lease_of_the_same_version_while_data_is_left(desk: Desk) -> None:
    first, slow = desk.lease(ANNA), desk.lease(BERT)
    desk.clock.advance(1.0)
    desk.accept(first)
    second = desk.lease(ANNA)
    assert second.base_version == first.base_version == slow.base_version
    assert not set(second.ranges) & {*first.ranges, *slow.ranges}


def test_quota_follows_the_measured_speed(desk: Desk) -> None:
    fast, slow = desk.lease(ANNA), desk.lease(BERT)
    desk.clock.advance(1.0)
    desk.accept(fast)
    desk.clock.advance(7.0)
    desk.accept(slow, train_ms=8000)
    desk.close()
    desk.open(2, target_images=720)
    fast, slow = desk.lease(ANNA), desk.lease(BERT)
    assert (fast.quota_images, slow.quota_images) == (640, 80)


def test_quota_makes_up_for_a_slow_line(desk: Desk) -> None:
    near, far = desk.lease(ANNA), desk.lease(BERT)
    desk.clock.advance(1.0)
    desk.accept(near)
    desk.clock.advance(7.0)
    desk.accept(far)
    desk.close()
    desk.open(2, target_images=720)
    near, far = desk.lease(ANNA), desk.lease(BERT)
    # 16 images a second each: 720 are in after 26 s, of which one spends 7 with its line
    assert (near.quota_images, far.quota_images) == (16 * 26, 16 * 19)


def test_silent_lease_expires_and_its_data_is_handed_out_first(desk: Desk) -> None:
    silent = desk.lease(ANNA)
    assert desk.expire_after(TIMEOUT) == 0
    assert desk.expire_after(0.1) == 1
    assert desk.ledger.active_leases() == []
    assert desk.lease(BERT).ranges == silent.ranges


def test_whoever_gets_the_data_again_gets_the_same_seed(desk: Desk) -> None:
    first = desk.lease(ANNA)
    desk.release(first)
    again = desk.lease(BERT)
    assert (again.ranges, again.seed) == (first.ranges, first.seed)
    assert again.lease_id != first.lease_id


def test_heartbeats_and_arriving_bytes_keep_a_lease(desk: Desk) -> None:
    beating, sending, silent = desk.lease(ANNA), desk.lease(BERT), desk.lease(CARL)
    desk.clock.advance(TIMEOUT)
    desk.dispatcher.heartbeat(ANNA, beating.lease_id)
    desk.dispatcher.touch(sending.lease_id)
    assert desk.expire_after(1.0) == 1
    assert {lease.lease_id for lease in desk.ledger.active_leases()} == {beating.lease_id, sending.lease_id}
    stored = desk.ledger.lease(silent.lease_id)
    assert stored is not None
    assert stored.state is LeaseState.EXPIRED


def test_who_asks_anew_gives_back_what_it_held(desk: Desk) -> None:
    before, other = desk.lease(ANNA), desk.lease(BERT)
    desk.run(desk.dispatcher.release_all(ANNA))
    assert desk.ledger.active_leases() == [other]
    assert desk.lease(ANNA).ranges == before.ranges


def test_contribution_counts_once(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    receipt = desk.accept(lease)
    assert desk.accept(lease) == receipt
    assert desk.dispatcher.progress.accepted_images == receipt.images == 16
    assert desk.ledger.contributions(1) == [receipt]


def test_other_bytes_for_the_same_lease_are_a_duplicate(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    desk.accept(lease)
    with pytest.raises(Refused) as refused:
        desk.accept(lease, sha256="b" * 64)
    assert refusal_of(refused) == Refusal.REFUSAL_DUPLICATE


def test_what_a_contribution_left_undone_goes_to_others(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    desk.accept(lease, images=5)
    rest = desk.lease(BERT).ranges[0]
    assert (rest.shard, rest.start, rest.count) == (lease.ranges[0].shard, lease.ranges[0].start + 5, 11)


def test_contribution_to_an_ended_lease_is_refused(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    desk.release(lease)
    with pytest.raises(Refused) as refused:
        desk.accept(lease)
    assert refusal_of(refused) == Refusal.REFUSAL_LEASE_EXPIRED
    assert desk.dispatcher.progress.accepted_images == 0


def test_what_missed_its_round_is_refused(desk: Desk) -> None:
    late, in_time = desk.lease(ANNA), desk.lease(BERT)
    desk.accept(in_time)
    desk.close()
    assert desk.dispatcher.heartbeat(ANNA, late.lease_id) is Order.ABANDON
    desk.open(2)
    with pytest.raises(Refused) as refused:
        desk.accept(late)
    assert refusal_of(refused) == Refusal.REFUSAL_ROUND_CLOSED
    assert desk.lease(CARL).ranges == late.ranges


@pytest.mark.parametrize("restarted", [False, True])
def test_with_a_late_weight_it_counts_in_the_next_round_weighed_down(late_desk: Desk, restarted: bool) -> None:
    late, in_time = late_desk.lease(ANNA), late_desk.lease(BERT)
    late_desk.accept(in_time)
    late_desk.close()
    late_desk.open(2)
    if restarted:
        late_desk.restart(2)
    assert late_desk.dispatcher.heartbeat(ANNA, late.lease_id) is Order.HAND_IN
    receipt = late_desk.accept(late)
    assert (receipt.round_number, receipt.images, receipt.weight) == (2, 16, 4.0)
    assert late_desk.dispatcher.expected() == set()


def test_late_contribution_waits_while_the_next_round_is_not_open(late_desk: Desk) -> None:
    late, in_time = late_desk.lease(ANNA), late_desk.lease(BERT)
    late_desk.accept(in_time)
    late_desk.close()
    with pytest.raises(Refused) as refused:
        late_desk.accept(late)
    assert refusal_of(refused) == Refusal.REFUSAL_BUSY
    assert refused.value.retry_after is not None


def test_late_contribution_waits_also_after_a_restart_between_two_rounds(late_desk: Desk) -> None:
    late, in_time = late_desk.lease(ANNA), late_desk.lease(BERT)
    late_desk.accept(in_time)
    late_desk.close()
    late_desk.kill()
    late_desk.run(late_desk.dispatcher.expect_late(1))
    assert late_desk.dispatcher.heartbeat(ANNA, late.lease_id) is Order.HAND_IN
    with pytest.raises(Refused) as refused:
        late_desk.accept(late)
    assert refusal_of(refused) == Refusal.REFUSAL_BUSY


def test_two_rounds_late_is_refused_whatever_the_late_weight(late_desk: Desk) -> None:
    late, first = late_desk.lease(ANNA), late_desk.lease(BERT)
    late_desk.accept(first)
    late_desk.close()
    late_desk.open(2)
    late_desk.accept(late_desk.lease(BERT))
    late_desk.close()
    late_desk.open(3)
    with pytest.raises(Refused) as refused:
        late_desk.accept(late)
    assert refusal_of(refused) == Refusal.REFUSAL_ROUND_CLOSED


def test_heartbeat_orders(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    assert desk.dispatcher.heartbeat(ANNA, lease.lease_id) is Order.CONTINUE
    assert desk.dispatcher.heartbeat(BERT, lease.lease_id) is Order.ABANDON
    desk.clock.advance(98.0)
    assert desk.dispatcher.heartbeat(ANNA, lease.lease_id) is Order.CONTINUE
    desk.clock.advance(1.0)  # the round closes after 100 s
    assert desk.dispatcher.heartbeat(ANNA, lease.lease_id) is Order.HAND_IN


def test_lease_of_another_worker_is_unknown(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    with pytest.raises(Refused) as refused:
        desk.run(desk.dispatcher.owned(BERT, lease.lease_id))
    assert refusal_of(refused) == Refusal.REFUSAL_UNKNOWN_LEASE


def test_restart_goes_on_with_what_was_there_and_a_whole_timeout(desk: Desk) -> None:
    done, active = desk.lease(ANNA), desk.lease(BERT)
    desk.accept(done)
    desk.clock.advance(TIMEOUT)
    desk.restart()
    progress = desk.dispatcher.progress
    assert (progress.accepted_images, progress.leased_images, progress.unleased_images) == (16, 16, 32)
    assert desk.expire_after(TIMEOUT) == 0
    assert desk.accept(active).images == 16


def test_speed_is_not_learned_from_a_lease_that_spans_a_restart(desk: Desk) -> None:
    lease = desk.lease(ANNA)
    desk.clock.advance(60.0)
    desk.restart()
    desk.clock.advance(0.1)
    desk.accept(lease)
    assert desk.dispatcher.speed(ANNA) is None


def test_round_that_everybody_has_left_starts_its_clock_anew(desk: Desk) -> None:
    done = desk.lease(ANNA)
    desk.clock.advance(1.0)
    desk.accept(done)
    desk.close()
    desk.open(2)
    desk.release(desk.lease(ANNA))
    desk.clock.advance(1000.0)
    assert desk.dispatcher.seconds_to_close() is None
    assert desk.lease(ANNA).quota_images > 0


def test_caller_that_hangs_up_does_not_stop_a_change_half_way(desk: Desk) -> None:
    lease = desk.lease(ANNA)

    async def hang_up() -> None:
        accepting = asyncio.create_task(desk.dispatcher.accept(work(lease)))
        await asyncio.sleep(0)
        accepting.cancel()
        with suppress(asyncio.CancelledError):
            await accepting
        await desk.dispatcher.accept(work(lease))  # waits behind the first one's lock

    desk.run(hang_up())
    assert len(desk.ledger.contributions(1)) == 1
    assert desk.dispatcher.progress.accepted_images == 16


def test_one_of_two_deltas_with_the_same_residual_counts_even_at_once(late_desk: Desk) -> None:
    def committed(lease: Lease, before: str, after: str) -> Work:
        return replace(work(lease), residual_before=before * 64, residual_after=after * 64)

    async def at_once(*works: Work) -> list[Contribution | BaseException]:
        accept = late_desk.dispatcher.accept
        return await asyncio.gather(*(accept(one) for one in works), return_exceptions=True)

    late_desk.run(at_once(committed(late_desk.lease(ANNA), "", "1")))
    late = late_desk.lease(ANNA)
    late_desk.close()
    late_desk.open(2)
    found = late_desk.run(at_once(committed(late, "1", "2"), committed(late_desk.lease(ANNA), "1", "3")))
    counted, refused = found
    assert isinstance(counted, Contribution)
    assert isinstance(refused, Refused)
    assert refused.refusal == Refusal.REFUSAL_WRONG_RESIDUAL
    assert late_desk.ledger.newest_residual(ANNA) == "2" * 64
    assert late_desk.ledger.newest_residual(BERT) == ""


def test_a_round_that_drains_grants_nothing_and_closes_when_the_last_lease_is_in_or_silent(desk: Desk) -> None:
    first, second = desk.lease(ANNA), desk.lease(BERT)
    desk.run(desk.dispatcher.drain(draining=True))
    assert desk.ask(CARL) is IdleReason.DRAINING
    desk.accept(first)
    assert desk.dispatcher.close_reason() is None
    assert desk.expire_after(TIMEOUT + 1) == 1
    assert desk.dispatcher.close_reason() is CloseReason.DRAINED
    desk.run(desk.dispatcher.drain(draining=False))
    assert desk.lease(CARL).ranges == second.ranges


def test_who_asks_for_work_while_it_drains_gives_back_what_it_held(desk: Desk) -> None:
    desk.lease(ANNA)
    desk.run(desk.dispatcher.drain(draining=True))
    assert desk.ask(ANNA) is IdleReason.DRAINING
    assert desk.ledger.active_leases() == []
    assert desk.dispatcher.close_reason() is None, "there is nothing to publish"


def test_what_came_late_alone_closes_no_round_that_drains(late_desk: Desk) -> None:
    late, other = late_desk.lease(ANNA), late_desk.lease(BERT)
    late_desk.accept(other)
    late_desk.close()
    late_desk.run(late_desk.dispatcher.drain(draining=True))
    late_desk.open(2)
    late_desk.accept(late)
    assert late_desk.dispatcher.close_reason() is None
