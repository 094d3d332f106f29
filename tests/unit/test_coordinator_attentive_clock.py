"""While the loop stands still, so does the clock by which workers are silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.attentive_clock import AttentiveClock
from diffusion_at_home.clock import ManualClock
from tests.unit.desk import ANNA, BERT, Desk

TIMEOUT = 100.0  # lease.timeout_seconds


def listen(attention: AttentiveClock, clock: ManualClock, seconds: float) -> None:
    """Time in which the loop ticks as it should."""
    for _ in range(round(seconds / 0.25)):
        clock.advance(0.25)
        attention.tick()


def test_time_passes_while_the_loop_listens() -> None:
    clock = ManualClock(1000.0)
    attention = AttentiveClock(clock)
    listen(attention, clock, 60.0)
    assert attention.now() == 60.0
    clock.advance(0.1)
    assert attention.now() == pytest.approx(60.1)


def test_stall_does_not_count_neither_before_the_loop_is_back_nor_after() -> None:
    stalls: list[float] = []
    clock = ManualClock(1000.0)
    attention = AttentiveClock(clock, stalls.append)
    clock.advance(60.0)
    assert attention.now() == 0.5
    assert attention.late_seconds > 59
    attention.tick()
    assert attention.now() == 0.5
    assert stalls == [59.5]
    listen(attention, clock, 1.0)
    assert attention.now() == 1.5


def test_stalled_loop_does_not_expire_leases_and_silence_still_does(tmp_path: Path) -> None:
    with Desk(tmp_path / "ledger.sqlite", attentive=True) as desk:
        desk.open()
        for worker in (ANNA, BERT):
            desk.lease(worker)
        assert desk.expire_after(10 * TIMEOUT) == 0
        listen(desk.attention, desk.clock, TIMEOUT)
        assert desk.expire_after(0.25) == 2
