"""Who waits for work is served in turn, out of the batch in which work turns up; nobody is woken for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator.dispatcher import IdleReason
from coordinator.records import Lease, LeaseId
from diffusion_at_home.errors import StorageError
from diffusion_at_home.identity import WorkerId
from tests.unit.desk import ANNA, BERT, CARL, Desk, a_round, a_worker, work

LONG = 60.0
CROWD = [WorkerId(f"crowd{index:011}") for index in range(20)]

Outcome = Lease | IdleReason


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Desk(tmp_path / "ledger.sqlite") as desk:
        for worker in CROWD:
            desk.ledger.join(a_worker(worker, worker[5:]))
        yield desk


def ask(desk: Desk, worker: WorkerId, seconds: float = LONG) -> asyncio.Task[Outcome]:
    desk.dispatcher.greet(worker, 0.0)
    return asyncio.create_task(desk.dispatcher.lease(worker, seconds))


async def waiting(desk: Desk, number: int) -> None:
    """Until so many wait and the ledger has nothing to do."""
    while desk.dispatcher.num_waiting != number:  # noqa: ASYNC110 -- nobody rings when a line grows
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)


async def in_line(desk: Desk, *workers: WorkerId) -> list[asyncio.Task[Outcome]]:
    """They wait, in this order."""
    tasks = []
    for number, worker in enumerate(workers, desk.dispatcher.num_waiting + 1):
        tasks.append(ask(desk, worker))
        await waiting(desk, number)
    return tasks


@contextmanager
def commits() -> Iterator[list[sa.Connection]]:
    """Every transaction of a ledger within."""
    seen: list[sa.Connection] = []

    def note(connection: sa.Connection) -> None:
        seen.append(connection)

    sa.event.listen(sa.Engine, "commit", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "commit", note)


def test_what_comes_back_goes_to_who_came_first_and_wakes_nobody_else(desk: Desk) -> None:
    desk.open(target_images=16)
    lease = desk.lease(CROWD[0])

    async def come_back() -> None:
        anna, bert, carl = await in_line(desk, ANNA, BERT, CARL)
        await desk.dispatcher.release(lease.worker_id, lease.lease_id)
        served = await anna
        assert isinstance(served, Lease)
        assert served.ranges == lease.ranges
        await waiting(desk, 2)
        assert not bert.done()
        assert not carl.done()
        await desk.dispatcher.release(ANNA, served.lease_id)
        assert isinstance(await bert, Lease)
        carl.cancel()

    desk.run(come_back())


def test_giving_back_and_granting_again_is_one_transaction(desk: Desk) -> None:
    desk.open(target_images=16)
    lease = desk.lease(CROWD[0])

    async def come_back() -> int:
        (anna,) = await in_line(desk, ANNA)
        with commits() as seen:
            await desk.dispatcher.release(lease.worker_id, lease.lease_id)
            await anna
        return len(seen)

    assert desk.run(come_back()) == 1


def test_round_that_opens_serves_the_whole_line_in_one_transaction(desk: Desk) -> None:
    async def crowd() -> tuple[int, list[Outcome]]:
        tasks = await in_line(desk, *CROWD)
        await desk.dispatcher.open(a_round(1, 16 * len(CROWD)), images_before=0, is_new=True)
        with commits() as seen:
            outcomes = [await task for task in tasks]
        return len(seen), outcomes

    transactions, outcomes = desk.run(crowd())
    leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
    assert [lease.worker_id for lease in leases] == CROWD
    assert [lease.lease_id for lease in leases] == sorted(lease.lease_id for lease in leases)
    assert desk.ledger.active_leases() == leases
    assert transactions == 1


def test_who_hangs_up_leaves_the_line(desk: Desk) -> None:
    desk.open(target_images=16)
    lease = desk.lease(CROWD[0])

    async def hang_up() -> None:
        anna, bert = await in_line(desk, ANNA, BERT)
        anna.cancel()
        with suppress(asyncio.CancelledError):
            await anna
        await desk.dispatcher.release(lease.worker_id, lease.lease_id)
        assert isinstance(await bert, Lease)
        assert desk.dispatcher.num_waiting == 0

    desk.run(hang_up())


def test_worker_has_one_place_and_one_lease(desk: Desk) -> None:
    desk.open(target_images=16)
    lease = desk.lease(CROWD[0])

    async def twice() -> None:
        (first,) = await in_line(desk, ANNA)
        again = ask(desk, ANNA)
        assert await first is IdleReason.ROUND_FULL
        await desk.dispatcher.release(lease.worker_id, lease.lease_id)
        assert isinstance(await again, Lease)

    desk.run(twice())
    assert len(desk.ledger.active_leases()) == 1
    assert desk.lease(ANNA).ranges == lease.ranges
    assert len(desk.ledger.active_leases()) == 1


def test_wait_ends_with_the_reason(desk: Desk) -> None:
    assert desk.run(desk.dispatcher.lease(ANNA, 0.01)) is IdleReason.CLOSING
    desk.open(target_images=16)
    desk.lease(CROWD[0])
    assert desk.run(desk.dispatcher.lease(ANNA, 0.01)) is IdleReason.ROUND_FULL


def test_complete_and_stopping_send_everybody_away_and_complete_stays(desk: Desk) -> None:
    async def stop() -> list[Outcome]:
        tasks = await in_line(desk, ANNA, BERT)
        desk.dispatcher.stop()
        return [await task for task in tasks]

    assert desk.run(stop()) == [IdleReason.STOPPING] * 2
    assert desk.ask(CARL) is IdleReason.STOPPING
    desk.dispatcher.complete()
    desk.dispatcher.stop()
    assert desk.ask(CARL) is IdleReason.COMPLETE


def test_all_are_told_that_the_run_is_complete_once_who_was_there_has_asked_or_fallen_silent(desk: Desk) -> None:
    async def leave() -> None:
        asked = await in_line(desk, ANNA)
        for worker in (BERT, CARL):
            desk.dispatcher.greet(worker, 0.0)
        desk.dispatcher.complete()
        told = asyncio.create_task(desk.dispatcher.all_told())
        assert await asked[0] is IdleReason.COMPLETE
        desk.clock.advance(10.0)
        assert await ask(desk, BERT) is IdleReason.COMPLETE
        await asyncio.sleep(0.01)
        assert not told.done()  # as nobody has told Carl
        desk.clock.advance(85.0)  # three heartbeats after Carl was heard
        assert await ask(desk, BERT) is IdleReason.COMPLETE
        await told

    desk.run(leave())


def test_what_comes_in_together_is_one_transaction_and_each_gets_its_receipt(desk: Desk) -> None:
    desk.open(target_images=16 * len(CROWD))
    leases = [desk.lease(worker) for worker in CROWD]

    async def together() -> tuple[int, list[LeaseId]]:
        with commits() as seen:
            receipts = await asyncio.gather(*(desk.dispatcher.accept(work(lease)) for lease in leases))
        return len(seen), [receipt.lease_id for receipt in receipts]

    transactions, receipts = desk.run(together())
    assert receipts == [lease.lease_id for lease in leases]
    assert transactions == 1
    assert desk.dispatcher.progress.accepted_images == 16 * len(CROWD)


def test_full_disk_changes_nothing_and_the_line_is_served_when_there_is_room(desk: Desk) -> None:
    desk.open(target_images=16)
    lease = desk.lease(CROWD[0])

    def full(connection: sa.Connection) -> None:  # noqa: ARG001
        raise sa.exc.OperationalError("commit", {}, OSError("database or disk is full"))

    async def fill() -> None:
        (anna,) = await in_line(desk, ANNA)
        sa.event.listen(sa.Engine, "commit", full)
        try:
            with pytest.raises(StorageError):
                await desk.dispatcher.release(lease.worker_id, lease.lease_id)
        finally:
            sa.event.remove(sa.Engine, "commit", full)
        assert desk.ledger.active_leases() == [lease]
        assert desk.dispatcher.progress.leased_images == 16
        assert not anna.done()
        await desk.dispatcher.release(lease.worker_id, lease.lease_id)
        assert isinstance(await anna, Lease)

    desk.run(fill())
