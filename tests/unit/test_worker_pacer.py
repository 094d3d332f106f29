"""A limit on the line is kept whoever sends and however much at once."""

from __future__ import annotations

import heapq
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.clock import ManualClock
from worker.pacer import Pacer


@given(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=50), st.floats(1_000, 1e8), st.floats(0.0, 5.0))
def test_bytes_take_the_time_that_the_rate_allows(sizes: list[int], rate: float, idle: float) -> None:
    clock = ManualClock()
    pacer = Pacer(rate, clock, clock.advance)
    assert pacer.piece_bytes is not None
    saved = 4 * pacer.piece_bytes
    for size in sizes:
        pacer.passes(size)
    busy = clock.now()
    assert busy == pytest.approx(max(0, sum(sizes) - saved) / rate, rel=1e-6, abs=1e-9)
    clock.advance(idle)
    pacer.passes(3 * saved)  # an idle line saves up so much and no more
    assert clock.now() >= busy + max(idle, 2 * saved / rate) * (1 - 1e-6)


class SharedTime:
    """Virtual time of several threads: it moves to the next end of a wait once all that are alive wait; waits end late."""

    def __init__(self, num_threads: int, late_seconds: float) -> None:
        self._late_seconds = late_seconds
        self._changed = threading.Condition()
        self._now = 0.0
        self._num_awake = num_threads
        self._ends: list[float] = []

    def now(self) -> float:
        return self._now

    def wait(self, seconds: float) -> None:
        with self._changed:
            end = self._now + seconds + self._late_seconds
            heapq.heappush(self._ends, end)
            self._num_awake -= 1
            self._move_on()
            self._changed.wait_for(lambda: self._now >= end)

    def leave(self) -> None:
        with self._changed:
            self._num_awake -= 1
            self._move_on()

    def _move_on(self) -> None:
        while self._num_awake == 0 and self._ends:
            self._now = self._ends[0]
            while self._ends and self._ends[0] <= self._now:
                heapq.heappop(self._ends)
                self._num_awake += 1
            self._changed.notify_all()


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("rate", [125_000.0, 1_250_000.0, 12_500_000.0])
@pytest.mark.parametrize("passing_share", [0.0, 0.9], ids=["quick line", "line hardly quicker than the limit"])
def test_a_long_stream_keeps_the_rate_within_two_percent(num_threads: int, rate: float, passing_share: float) -> None:
    time = SharedTime(num_threads, late_seconds=0.003)
    pacer = Pacer(rate, time, time.wait)
    piece, pieces = pacer.piece_bytes, 1000
    assert piece is not None

    def stream() -> None:
        for _ in range(pieces):
            time.wait(passing_share * piece / rate)
            pacer.passes(piece)
        time.leave()

    threads = [threading.Thread(target=stream) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_threads * pieces * piece / time.now() == pytest.approx(rate, rel=0.02)


def test_pieces_are_small_enough_to_flow_evenly() -> None:
    pacer = Pacer(1e6, ManualClock(), lambda _: None)
    assert pacer.piece_bytes == 50_000
    assert Pacer(1000, ManualClock(), lambda _: None).piece_bytes == 4096


def test_without_a_limit_nothing_waits() -> None:
    def fails(seconds: float) -> None:
        raise AssertionError(seconds)

    pacer = Pacer(math.inf, ManualClock(), fails)
    pacer.passes(10**12)
    assert pacer.piece_bytes is None
