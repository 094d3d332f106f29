"""Whoever is turned away is told when there will be room, and no two the same time."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from coordinator.admission import Line, Places, Rate
from coordinator.refused import Refused
from diffusion_at_home.clock import ManualClock
from diffusion_at_home.rpc.coordinator_pb2 import Refusal


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def seconds(wait: timedelta | None) -> float:
    assert wait is not None
    return wait.total_seconds()


def test_those_who_are_turned_away_come_back_at_the_rate_and_not_together(clock: ManualClock) -> None:
    line = Line(clock, random.Random(0))
    waits = [seconds(line.come_back(10)) for _ in range(100)]
    assert all(index / 10 <= wait <= index / 10 * 1.5 for index, wait in enumerate(waits, 1) if index > 2)
    assert len(set(waits)) == 100


def test_line_gets_shorter_as_time_passes(clock: ManualClock) -> None:
    line = Line(clock, random.Random(0))
    for _ in range(100):
        line.come_back(10)
    clock.advance(9.0)
    assert 1.1 <= seconds(line.come_back(10)) <= 1.1 * 1.5


def test_nobody_is_sent_away_for_long(clock: ManualClock) -> None:
    line = Line(clock, random.Random(0))
    assert max(seconds(line.come_back(1)) for _ in range(10_000)) <= 90


def test_rate_lets_in_a_second_s_worth_and_then_as_many_as_time_brings(clock: ManualClock) -> None:
    rate = Rate(5, clock, random.Random(0))
    assert [rate.has_room() for _ in range(6)] == [True] * 5 + [False]
    with pytest.raises(Refused) as refused:
        rate.enter("many")
    assert refused.value.refusal == Refusal.REFUSAL_BUSY
    assert refused.value.retry_after is not None
    clock.advance(0.4)
    assert [rate.has_room() for _ in range(3)] == [True, True, False]
    clock.advance(1000.0)
    assert [rate.has_room() for _ in range(6)] == [True] * 5 + [False]


def test_place_is_free_again_whatever_its_visit_came_to(clock: ManualClock) -> None:
    places = Places(1, clock, random.Random(0))

    def fail() -> None:
        with places.taken("full"):
            with pytest.raises(Refused, match="full"), places.taken("full"):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with places.taken("full"):
        assert places.num_taken == 1
    assert places.num_taken == 0


def test_how_long_visits_take_says_when_to_come_back(clock: ManualClock) -> None:
    places = Places(1, clock, random.Random(0))
    for _ in range(100):
        with places.taken("full"):
            clock.advance(20.0)
    with places.taken("full"), pytest.raises(Refused) as refused, places.taken("full"):
        pass
    assert 19 <= seconds(refused.value.retry_after) <= 30


def test_while_calls_wait_to_be_read_there_are_few_places(clock: ManualClock) -> None:
    late = [1.0]
    places = Places(64, clock, random.Random(0), lambda: late[0])
    taken = [places.taken("behind") for _ in range(17)]
    for visit in taken[:16]:
        visit.__enter__()
    with pytest.raises(Refused):
        taken[16].__enter__()
    late[0] = 0.0
    with places.taken("behind"):
        assert places.num_taken == 17
