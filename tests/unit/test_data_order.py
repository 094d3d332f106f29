"""Every sample comes exactly once an epoch, in an order that is the same on every machine."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.data.order import DataCursor, ShardRange, sample_order, shard_order, split_ranges

START = DataCursor(0, 0, 0)
sizes = st.lists(st.integers(1, 9), min_size=1, max_size=6)
seeds = st.integers(0, 2**63)


def samples(ranges: tuple[ShardRange, ...]) -> list[tuple[int, int, int]]:
    return [(part.epoch, part.shard, place) for part in ranges for place in range(part.start, part.start + part.count)]


@given(sizes, seeds, st.integers(1, 3))
def test_every_sample_comes_once_an_epoch(shard_sizes: list[int], seed: int, epochs: int) -> None:
    ranges, cursor = START.take(epochs * sum(shard_sizes), seed=seed, shard_sizes=shard_sizes)
    everything = [(e, s, p) for e in range(epochs) for s, size in enumerate(shard_sizes) for p in range(size)]
    assert Counter(samples(ranges)) == Counter(everything)
    assert cursor == DataCursor(epochs, 0, 0)


@given(sizes, seeds, st.lists(st.integers(0, 12), max_size=8))
def test_many_small_takes_are_one_large_take(shard_sizes: list[int], seed: int, takes: list[int]) -> None:
    cursor, taken = START, list[tuple[int, int, int]]()
    for num_images in takes:
        ranges, cursor = cursor.take(num_images, seed=seed, shard_sizes=shard_sizes)
        taken += samples(ranges)
    at_once, end = START.take(sum(takes), seed=seed, shard_sizes=shard_sizes)
    assert (taken, cursor) == (samples(at_once), end)


@given(sizes, seeds, st.integers(0, 30), st.integers(0, 40))
def test_a_split_loses_nothing_and_keeps_the_order(shard_sizes: list[int], seed: int, taken: int, head: int) -> None:
    ranges, _ = START.take(taken, seed=seed, shard_sizes=shard_sizes)
    first, rest = split_ranges(ranges, head)
    assert len(samples(first)) == min(head, taken)
    assert samples(first) + samples(rest) == samples(ranges)
    assert all(part.count > 0 for part in first + rest)


@given(seeds, st.integers(0, 5), st.integers(0, 5), st.integers(0, 50))
def test_an_order_is_a_permutation(seed: int, epoch: int, shard: int, num: int) -> None:
    assert sorted(shard_order(seed, epoch, num)) == list(range(num))
    assert sorted(sample_order(seed, epoch, shard, num)) == list(range(num))


def test_orders_are_those_that_every_version_of_this_code_has_given() -> None:
    assert shard_order(7, 0, 8) == (4, 3, 0, 2, 5, 7, 1, 6)
    assert sample_order(7, 2, 3, 8) == (5, 1, 2, 0, 7, 6, 4, 3)
