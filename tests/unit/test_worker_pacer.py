"""A limit on the line is kept whoever sends and however much at once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.clock import ManualClock
from worker.pacer import Pacer


@given(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=50), st.floats(1_000, 1e8), st.floats(0.0, 5.0))
def test_bytes_take_the_time_that_the_rate_allows(sizes: list[int], rate: float, idle: float) -> None:
    clock = ManualClock()
    pacer = Pacer(rate, clock, clock.advance)
    for size in sizes:
        pacer.passes(size)
    assert clock.now() == pytest.approx(sum(sizes) / rate, rel=1e-6)
    clock.advance(idle)
    pacer.passes(1000)  # an idle line saves up nothing
    assert clock.now() == pytest.approx(sum(sizes) / rate + idle + 1000 / rate, rel=1e-6)


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
