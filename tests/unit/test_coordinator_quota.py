"""How large leases are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.quota import Asker, Demand, Pace, PaceBook, lease_images, seconds_for
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml

CONFIG = load_toml(
    Path("configs/digits.toml"),
    RunConfig,
    ["inner.batch_images=32", "lease.min_steps=2", "lease.max_steps=50", "lease.probe_steps=4", "round.images=2400"],
)
WHOLE = Demand(target_images=2400, unleased_images=2400, seconds_left=1000.0)


def test_workers_of_all_speeds_would_hand_in_together() -> None:
    fleet = [Pace(10.0), Pace(10.0, 5.0), Pace(20.0, 15.0), Pace(40.0)]
    times = [
        pace.overhead_seconds + lease_images(CONFIG, WHOLE, Asker(pace), fleet) / pace.images_per_second
        for pace in fleet
    ]
    assert max(times) <= min(times) * 1.2  # whole batches are not exact


def test_slow_line_gets_as_much_less_as_it_costs_and_not_ever_less() -> None:
    """A line that takes half the round must not make the machine look slow, or each lease would be smaller than the last."""
    book = PaceBook()
    fleet = [Pace(40.0), Pace(40.0)]
    for _ in range(20):
        slow = book.get("slow") or Pace(40.0)
        images = lease_images(CONFIG, WHOLE, Asker(slow), [*fleet, slow])
        book.learn("slow", images, trained_seconds=images / 40.0, seconds=10.0 + images / 40.0)
    # 2400 = 40 (2 c + c - 10) for a round of c seconds: 23.3, of which this one trains 13.3
    assert images == pytest.approx(40 * 13.3, abs=32)


def test_one_that_would_be_too_late_is_left_out() -> None:
    late = Pace(40.0, overhead_seconds=100.0)
    assert seconds_for(2400, [Pace(40.0), late]) == 60.0
    assert seconds_for(2400, [late]) == 160.0


def test_time_for_a_round_is_that_of_its_images() -> None:
    fleet = [Pace(10.0, 3.0), Pace(20.0), Pace(5.0, 7.0)]
    assert sum(pace.images_within(seconds_for(500, fleet)) for pace in fleet) == pytest.approx(500)


def test_unknown_worker_gets_a_probe() -> None:
    assert lease_images(CONFIG, WHOLE, Asker(None), [Pace(100.0)]) == 4 * 32


def test_worker_of_several_devices_gets_that_many_times_as_much() -> None:
    assert lease_images(CONFIG, WHOLE, Asker(None, devices=3), [Pace(100.0)]) == 3 * 4 * 32
    large = Demand(target_images=24_000, unleased_images=24_000, seconds_left=1000.0)
    assert lease_images(CONFIG, large, Asker(Pace(100.0)), [Pace(100.0)]) == 50 * 32
    assert lease_images(CONFIG, large, Asker(Pace(100.0), devices=2), [Pace(100.0)]) == 2 * 50 * 32


def test_lease_fits_into_the_time_left() -> None:
    late = Demand(target_images=2400, unleased_images=2400, seconds_left=10.0)
    assert lease_images(CONFIG, late, Asker(Pace(50.0)), [Pace(50.0)]) == 50 * 10 * 0.9 // 32 * 32


def test_no_lease_that_could_not_end_before_the_close() -> None:
    assert lease_images(CONFIG, Demand(2400, 2400, seconds_left=1.0), Asker(Pace(10.0)), [Pace(10.0)]) == 0


def test_what_would_be_left_over_is_added() -> None:
    assert (
        lease_images(
            CONFIG, Demand(2400, unleased_images=900, seconds_left=1e3), Asker(Pace(40.0)), [Pace(40.0), Pace(70.0)]
        )
        == 900
    )


def test_little_is_added_rather_than_leased_to_somebody_who_is_early() -> None:
    demand = Demand(3200, unleased_images=1664, seconds_left=1e3)
    assert lease_images(CONFIG, demand, Asker(Pace(40.0)), [Pace(40.0), Pace(40.0)]) == 1600
    roomy = CONFIG.model_copy(update={"lease": CONFIG.lease.model_copy(update={"max_steps": 52})})
    assert lease_images(roomy, demand, Asker(Pace(40.0)), [Pace(40.0), Pace(40.0)]) == 1664


def test_remainder_that_is_not_worth_a_lease_stays() -> None:
    assert (
        lease_images(CONFIG, Demand(2400, unleased_images=63, seconds_left=1e3), Asker(Pace(40.0)), [Pace(40.0)]) == 0
    )


def test_last_round_may_be_smaller_than_a_lease() -> None:
    assert (
        lease_images(
            CONFIG, Demand(target_images=40, unleased_images=40, seconds_left=1e3), Asker(Pace(40.0)), [Pace(40.0)]
        )
        == 40
    )


PACES = st.builds(Pace, st.floats(0.001, 1e5), st.floats(0.0, 1e3))


@given(
    unleased=st.integers(0, 5000),
    seconds=st.floats(0.01, 1e4),
    pace=st.none() | PACES,
    others=st.lists(PACES, max_size=5),
)
def test_lease_is_within_every_bound(unleased: int, seconds: float, pace: Pace | None, others: list[Pace]) -> None:
    images = lease_images(CONFIG, Demand(2400, unleased, seconds), Asker(pace), others)
    assert 0 <= images <= min(unleased, 50 * 32)
    assert images == 0 or images >= 64


def test_measured_pace_replaces_what_was_claimed() -> None:
    book = PaceBook()
    book.suggest("w", 1000.0)
    assert book.get("w") == Pace(1000.0)
    for _ in range(12):
        book.learn("w", images=100, trained_seconds=10.0, seconds=13.0)
    book.suggest("w", 1000.0)
    pace = book.get("w")
    assert pace is not None
    assert pace.images_per_second == pytest.approx(10.0, rel=0.05)
    assert pace.overhead_seconds == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("claimed", [0.0, 1e9])
def test_training_takes_no_longer_than_the_lease(claimed: float) -> None:
    book = PaceBook()
    book.learn("w", images=100, trained_seconds=claimed, seconds=10.0)
    pace = book.get("w")
    assert pace is not None
    assert pace.overhead_seconds + 100 / pace.images_per_second == pytest.approx(10.0, rel=1e-3)
