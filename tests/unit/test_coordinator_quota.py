"""How large leases are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.quota import Asker, Demand, SpeedBook, lease_images
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml

CONFIG = load_toml(
    Path("configs/digits.toml"),
    RunConfig,
    ["inner.batch_images=32", "lease.min_steps=2", "lease.max_steps=50", "lease.probe_steps=4", "round.images=2400"],
)
WHOLE = Demand(target_images=2400, unleased_images=2400, seconds_left=1000.0)


def test_workers_of_all_speeds_would_hand_in_together() -> None:
    speeds = [10.0, 10.0, 20.0, 40.0]
    times = [lease_images(CONFIG, WHOLE, Asker(speed), speeds) / speed for speed in speeds]
    assert max(times) <= min(times) * 1.2  # whole batches are not exact


def test_unknown_worker_gets_a_probe() -> None:
    assert lease_images(CONFIG, WHOLE, Asker(None), [100.0]) == 4 * 32


def test_worker_of_several_devices_gets_that_many_times_as_much() -> None:
    assert lease_images(CONFIG, WHOLE, Asker(None, devices=3), [100.0]) == 3 * 4 * 32
    large = Demand(target_images=24_000, unleased_images=24_000, seconds_left=1000.0)
    assert lease_images(CONFIG, large, Asker(100.0), [100.0]) == 50 * 32
    assert lease_images(CONFIG, large, Asker(100.0, devices=2), [100.0]) == 2 * 50 * 32


def test_lease_fits_into_the_time_left() -> None:
    late = Demand(target_images=2400, unleased_images=2400, seconds_left=10.0)
    assert lease_images(CONFIG, late, Asker(50.0), [50.0]) == 50 * 10 * 0.9 // 32 * 32


def test_no_lease_that_could_not_end_before_the_close() -> None:
    assert lease_images(CONFIG, Demand(2400, 2400, seconds_left=1.0), Asker(10.0), [10.0]) == 0


def test_what_would_be_left_over_is_added() -> None:
    assert lease_images(CONFIG, Demand(2400, unleased_images=900, seconds_left=1e3), Asker(40.0), [40.0, 70.0]) == 900


def test_remainder_that_is_not_worth_a_lease_stays() -> None:
    assert lease_images(CONFIG, Demand(2400, unleased_images=63, seconds_left=1e3), Asker(40.0), [40.0]) == 0


def test_last_round_may_be_smaller_than_a_lease() -> None:
    assert (
        lease_images(CONFIG, Demand(target_images=40, unleased_images=40, seconds_left=1e3), Asker(40.0), [40.0]) == 40
    )


@given(
    unleased=st.integers(0, 5000),
    seconds=st.floats(0.01, 1e4),
    speed=st.none() | st.floats(0.001, 1e5),
    others=st.lists(st.floats(0.001, 1e5), max_size=5),
)
def test_lease_is_within_every_bound(unleased: int, seconds: float, speed: float | None, others: list[float]) -> None:
    images = lease_images(CONFIG, Demand(2400, unleased, seconds), Asker(speed), others)
    assert 0 <= images <= min(unleased, 50 * 32)
    assert images == 0 or images >= 64


def test_measured_speed_replaces_what_was_claimed() -> None:
    book = SpeedBook()
    book.suggest("w", 1000.0)
    assert book.get("w") == 1000.0
    for _ in range(12):
        book.learn("w", images=100, seconds=10.0)
    book.suggest("w", 1000.0)
    assert book.get("w") == pytest.approx(10.0, rel=0.05)
