"""The duty cycle: the share of the time at work is as asked over a lease, whatever its steps are like."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from diffusion_at_home.clock import ManualClock
from tests.unit.fake_machine import settings
from worker.conditions.throttle import Throttle


def share_worked(percent: int, steps: Sequence[float], late_seconds: float = 0.0) -> float:
    """Of a lease whose steps take so many seconds; each rest ends late by up to so much."""
    clock, draw = ManualClock(), random.Random(1)
    throttle = Throttle(settings(limits={"duty_percent": percent}), clock)

    def wait(seconds: float) -> None:
        clock.advance(seconds + draw.random() * late_seconds)

    for seconds in steps:
        throttle.before_step()
        clock.advance(seconds)
        throttle.after_step(wait)
    return sum(steps) / clock.now()


@pytest.mark.parametrize("percent", [10, 35, 50, 90, 99])
@pytest.mark.parametrize(("step", "num_steps"), [(0.02, 5000), (1.5, 200), (40.0, 60)])
def test_the_share_at_work_is_within_2_percent_over_a_lease(percent: int, step: float, num_steps: int) -> None:
    draw = random.Random(percent)
    steps = [step * draw.uniform(0.5, 1.5) for _ in range(num_steps)]
    late = 0.01 if percent < 99 else 0.0
    assert share_worked(percent, steps, late) == pytest.approx(percent / 100, rel=0.02)


def test_without_a_limit_it_never_rests() -> None:
    assert share_worked(100, [1.0] * 10) == 1.0


def test_what_is_not_a_step_is_not_rested_for() -> None:
    clock = ManualClock()
    throttle = Throttle(settings(limits={"duty_percent": 50}), clock)
    rests: list[float] = []
    for _ in range(3):
        clock.advance(600)  # waits for shards
        throttle.before_step()
        clock.advance(2)
        throttle.after_step(lambda seconds: (rests.append(seconds), clock.advance(seconds)))
    assert rests == [2.0, 2.0, 2.0]


def test_a_rest_that_is_cut_short_is_made_up() -> None:
    clock = ManualClock()
    throttle = Throttle(settings(limits={"duty_percent": 10}), clock)
    rests: list[float] = []

    def cut_short(seconds: float) -> None:
        rests.append(seconds)
        clock.advance(seconds / 2)

    for _ in range(2):
        throttle.before_step()
        clock.advance(1)
        throttle.after_step(cut_short)
    assert rests == [9.0, 13.5]


def test_another_share_counts_from_the_next_step_on() -> None:
    clock = ManualClock()
    throttle = Throttle(settings(limits={"duty_percent": 100}), clock)
    throttle.before_step()
    clock.advance(5)
    throttle.after_step(lambda _: pytest.fail("rested"))
    throttle.reload(settings(limits={"duty_percent": 25}))
    throttle.before_step()
    clock.advance(1)
    rests: list[float] = []
    throttle.after_step(rests.append)
    assert rests == [3.0]
