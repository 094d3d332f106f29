"""What is asked while one batch is being stored is the next batch; one request never fails its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from coordinator.batches import Again, Batches
from diffusion_at_home.errors import StorageError


class Store:
    """Stores numbers: their doubles are the outcomes. Negative ones cannot be stored, 0 only in a batch that it begins."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = asyncio.Event()
        self.full = False

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception | Again]:
        self.batches.append(list(numbers))
        self.begun.set()
        await asyncio.sleep(0)
        if self.full:
            raise StorageError("full")
        if any(number < 0 for number in numbers):
            raise ZeroDivisionError
        return [Again.AGAIN if number == 0 and index else 2 * number for index, number in enumerate(numbers)]


def outcomes(store: Store, *numbers: int) -> list[int | BaseException]:
    async def all_at_once() -> list[int | BaseException]:
        batches = Batches[int, int](store)
        return await asyncio.gather(*(batches.do(number) for number in numbers), return_exceptions=True)

    return asyncio.run(all_at_once())


def test_what_is_asked_meanwhile_is_one_batch_in_the_order_of_asking() -> None:
    store = Store()

    async def ask() -> None:
        batches = Batches[int, int](store)
        first = asyncio.create_task(batches.do(1))
        await store.begun.wait()
        assert await asyncio.gather(batches.do(3), batches.do(2), batches.do(4)) == [6, 4, 8]
        assert await first == 2

    asyncio.run(ask())
    assert store.batches == [[1], [3, 2, 4]]


def test_one_that_cannot_be_stored_fails_alone() -> None:
    good, bad, also_good = outcomes(Store(), 1, -1, 2)
    assert (good, also_good) == (2, 4)
    assert isinstance(bad, ZeroDivisionError)


def test_full_disk_is_everybody_s_and_tried_once() -> None:
    store = Store()
    store.full = True
    assert [type(outcome) for outcome in outcomes(store, 1, 2, 3)] == [StorageError] * 3
    assert len(store.batches) == 1


def test_what_only_the_next_batch_can_say_comes_before_what_was_asked_later() -> None:
    store = Store()
    assert outcomes(store, 1, 0, 2) == [2, 0, 4]
    assert store.batches == [[1, 0, 2], [0]]


def test_caller_that_hangs_up_stops_neither_its_own_request_nor_others() -> None:
    store = Store()

    async def hang_up() -> int:
        batches = Batches[int, int](store)
        leaving, staying = asyncio.create_task(batches.do(1)), asyncio.create_task(batches.do(2))
        await asyncio.sleep(0)
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(hang_up()) == 4
    assert store.batches == [[1, 2]]


@pytest.mark.parametrize("full", [False, True])
def test_poke_stores_a_batch_that_nobody_asked_for(full: bool) -> None:
    store = Store()
    store.full = full

    async def poke() -> None:
        Batches[int, int](store).poke()
        await store.begun.wait()

    asyncio.run(poke())
    assert store.batches == [[]]
