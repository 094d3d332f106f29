from datetime import timedelta

import pytest

from worker.backoff import Backoff


def at(draw: float) -> Backoff:
    return Backoff(15, 900, lambda: draw)


@pytest.mark.parametrize(("failures", "limit"), [(1, 15), (2, 30), (3, 60), (6, 480), (7, 900), (8, 900), (10**9, 900)])
def test_limit_doubles_from_floor_to_ceiling_and_the_pause_is_uniform_below_it(failures: int, limit: float) -> None:
    assert [at(draw).seconds(failures) for draw in (0.0, 0.5, 1.0)] == [0, limit / 2, limit]


def test_floor_above_the_ceiling_is_the_ceiling() -> None:
    assert Backoff(15, 1, lambda: 1.0).seconds(1) == 1


def test_named_time_is_never_undercut_and_spread() -> None:
    assert [at(draw).named_seconds(timedelta(seconds=30)) for draw in (0.0, 1.0)] == [30, 45]


def test_herd_comes_back_spread() -> None:
    pauses = sorted(Backoff(15, 900).seconds(1) for _ in range(1000))
    most_in_a_second = max(sum(start <= pause < start + 1 for pause in pauses) for start in range(15))
    assert most_in_a_second < 200
