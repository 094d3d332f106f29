"""Every sample comes once an epoch, whatever is given back."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from coordinator.data_pool import DataPool
from diffusion_at_home.data.order import DataCursor, ShardRange, split_ranges

Sample = tuple[int, int, int]
"""Epoch, shard, place in the epoch's order."""

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)
LEASES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=40)
"""Images leased, and images of those done; the rest comes back."""


def samples(ranges: tuple[ShardRange, ...]) -> list[Sample]:
    return [(part.epoch, part.shard, part.start + step) for part in ranges for step in range(part.count)]


def epoch(number: int, sizes: list[int]) -> set[Sample]:
    return {(number, shard, place) for shard, size in enumerate(sizes) for place in range(size)}


@given(SIZES, LEASES, st.integers(0, 3))
def test_every_sample_is_done_exactly_once_an_epoch_however_much_comes_back(
    sizes: list[int], leases: list[tuple[int, int]], seed: int
) -> None:
    pool, done = DataPool(DataCursor(0, 0, 0)), Counter[Sample]()
    for images, num_done in leases:
        ranges, pool = pool.take(images, seed=seed, shard_sizes=sizes)
        assert len(samples(ranges)) == images
        finished, undone = split_ranges(ranges, num_done)
        done.update(samples(finished))
        pool = pool.give_back(undone)
    assert set(done.values()) <= {1}
    while pool.returned:  # what is still owed is handed out before anything new
        ranges, pool = pool.take(1, seed=seed, shard_sizes=sizes)
        done.update(samples(ranges))
    assert set(done.values()) <= {1}
    for whole in range(pool.cursor.epoch):
        assert epoch(whole, sizes) <= set(done)


@given(SIZES, st.lists(st.integers(1, 12), max_size=20), st.integers(0, 3))
def test_with_late_work_counted_as_well_a_sample_is_done_at_most_twice(
    sizes: list[int], leases: list[int], seed: int
) -> None:
    pool, done = DataPool(DataCursor(0, 0, 0)), Counter[Sample]()
    for index, images in enumerate(leases):
        ranges, pool = pool.take(images, seed=seed, shard_sizes=sizes)
        if index % 2 == 0:  # misses its round: given back, and counted in the next
            again, pool = pool.give_back(ranges).take(images, seed=seed, shard_sizes=sizes)
            done.update(samples(again))
        done.update(samples(ranges))
    assert max(done.values(), default=0) <= 2


@given(SIZES, LEASES)
def test_stored_pool_is_the_same_pool(sizes: list[int], leases: list[tuple[int, int]]) -> None:
    pool = DataPool(DataCursor(0, 0, 0))
    for images, num_done in leases:
        ranges, pool = pool.take(images, seed=0, shard_sizes=sizes)
        pool = pool.give_back(split_ranges(ranges, num_done)[1])
    assert DataPool.from_json(pool.to_json()) == pool


@given(SIZES, st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 3), st.randoms())
def test_leases_that_come_back_whole_are_granted_again_as_they_were(
    sizes: list[int], leases: list[int], seed: int, chance: random.Random
) -> None:
    pool, granted = DataPool(DataCursor(0, 0, 0)), []
    for images in leases:
        ranges, pool = pool.take(images, seed=seed, shard_sizes=sizes)
        granted.append(ranges)
    for ranges in chance.sample(granted, len(granted)):
        pool = pool.give_back(ranges)
    for images, before in zip(leases, granted, strict=True):
        ranges, pool = pool.take(images, seed=seed, shard_sizes=sizes)
        assert samples(ranges) == samples(before)
        assert (ranges[0].epoch, ranges[0].shard, ranges[0].start) == (
            before[0].epoch,
            before[0].shard,
            before[0].start,
        )


def test_what_comes_back_is_handed_out_in_the_order_of_the_data() -> None:
    late, early = ShardRange(epoch=0, shard=2, start=5, count=3), ShardRange(epoch=0, shard=2, start=0, count=2)
    pool = DataPool(DataCursor(1, 0, 0)).give_back([late]).give_back([early])
    ranges, _ = pool.take(4, seed=0, shard_sizes=(4, 4, 8))
    assert ranges == (early, ShardRange(epoch=0, shard=2, start=5, count=2))
