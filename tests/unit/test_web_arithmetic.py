"""What pages compute before they show it: figures in words, pace, points that a screen has room for, coverage of the data."""

from __future__ import annotations

import math
import random

import pytest

from coordinator.data_pool import DataPool
from coordinator.web import words
from coordinator.web.coverage import coverage
from coordinator.web.pace import Published, images_per_second, seconds_left
from coordinator.web.paging import ROWS, page_of, paging
from coordinator.web.thinning import thinned
from diffusion_at_home.data.order import DataCursor, ShardRange


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.number(1234567), "1,234,567"),
        (words.number(None), words.UNKNOWN),
        (words.figure(0.123456), "0.1235"),
        (words.figure(8.5), "8.50"),
        (words.figure(97032.4), "97,032"),
        (words.figure(0.0), "0"),
        (words.figure(math.inf), words.UNKNOWN),
        (words.percent(0.99999), "99.9 %"),  # nothing is complete before it is
        (words.percent(1.0), "100.0 %"),
        (words.percent(0.2, 0), "20 %"),
        (words.size(0), "0 B"),
        (words.size(999), "999 B"),
        (words.size(999_999), "1 MB"),
        (words.size(3_400_000_000), "3.4 GB"),
        (words.duration(59.6), "1 min"),
        (words.duration(3661), "1 h 1 min"),
        (words.duration(90_000), "1 d 1 h"),
        (words.duration(400 * 86_400), "1 y 35 d"),
        (words.duration(math.inf), words.UNKNOWN),
        (words.counted(1, "shard"), "1 shard"),
        (words.counted(2000, "shard"), "2,000 shards"),
        (words.moment(0), "1 Jan 1970, 00:00 UTC"),
        (words.machine_time(0), "1970-01-01T00:00:00Z"),
    ],
)
def test_figures_are_told_as_people_read_them(shown: str, expected: str) -> None:
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == expected


def test_pace_is_the_mean_over_the_last_rounds_and_falls_when_they_stop() -> None:
    rounds = [Published(100 * n, 10_000 * n) for n in range(5)]
    assert images_per_second(rounds, 45_000) == 10.0
    assert images_per_second(rounds, 80_000) == pytest.approx(5.0)
    assert images_per_second(rounds[:1], 45_000) is None
    assert images_per_second([rounds[0], rounds[0]], 0) is None


def test_a_rollback_takes_nothing_from_the_pace() -> None:
    rounds = [Published(0, 0), Published(100, 10_000), Published(0, 20_000), Published(100, 30_000)]
    assert images_per_second(rounds, 30_000) == pytest.approx(200 / 30)


def test_nobody_knows_how_long_a_run_takes_that_stands_still() -> None:
    assert seconds_left(0, None) == 0.0
    assert seconds_left(10, None) is None
    assert seconds_left(10, 0.0) is None
    assert seconds_left(10, 2.0) == 5.0


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500, 501, 26_000])
def test_thinned_points_are_few_in_order_and_have_both_ends(count: int) -> None:
    points = thinned(range(count), 500)
    assert len(points) == min(count, 500)
    assert points == sorted(set(points))
    assert not count or (points[0], points[-1]) == (0, count - 1)


@pytest.mark.parametrize(
    ("asked", "page"), [("", 1), ("2", 2), ("3", 3), ("99", 3), ("0", 1), ("-1", 1), ("٣", 1), ("9" * 30, 1)]
)
def test_an_odd_page_number_is_a_page_that_there_is(asked: str, page: int) -> None:
    assert paging(asked, 2 * ROWS + 1).page == page


def test_pages_together_have_every_row_once() -> None:
    items = list(range(2 * ROWS + 1))
    assert [item for page in "123" for item in page_of(items, page)[1]] == items
    assert page_of([], "7")[0].pages == 1


@pytest.mark.parametrize("seed", range(8))
def test_coverage_equals_a_count_of_every_sample(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.randint(1, 9) for _ in range(chance.randint(1, 30))]
    pool = DataPool(DataCursor(0, 0, 0))
    granted: list[ShardRange] = []
    for _ in range(chance.randint(0, 25)):
        ranges, pool = pool.take(chance.randint(1, 12), seed=seed, shard_sizes=sizes)
        granted += ranges
    back = [part for part in granted if chance.random() < 0.2]
    pool = pool.give_back(back)
    leased = [part for part in granted if part not in back and chance.random() < 0.2]
    done = [part for part in granted if part not in back and part not in leased]

    epoch = pool.cursor.epoch
    found = coverage(pool, leased, sizes, seed=seed, most_cells=7)
    by_shard = [sum(part.count for part in done if (part.epoch, part.shard) == (epoch, s)) for s in range(len(sizes))]
    assert (found.epoch, found.done, found.images) == (epoch + 1, sum(by_shard), sum(sizes))
    assert found.out == sum(part.count for part in leased if part.epoch == epoch)
    assert found.from_before == sum(part.count for part in (*back, *leased) if part.epoch < epoch)
    assert found.shards_done == sum(part == size for part, size in zip(by_shard, sizes, strict=True))
    assert len(found.cells) <= 7
    assert sum(cell.shards for cell in found.cells) == len(sizes)
    for cell in found.cells:
        assert cell.done == sum(by_shard[cell.first : cell.first + cell.shards])
