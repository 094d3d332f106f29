"""When rounds close, with times in plain seconds."""

from __future__ import annotations

from coordinator.closing import CloseReason, Progress, close_reason, closes_at
from tests.unit.tiny_run import tiny_config

CONFIG = tiny_config("round.max_seconds=100.0", "round.quorum=0.6", "round.grace=0.5", "lease.heartbeat_seconds=3.0")


def progress(**changes: float | int | None) -> Progress:
    made = Progress(target_images=1000, min_lease_images=32, started_at=0.0)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_round_nobody_has_started_never_closes() -> None:
    assert close_reason(CONFIG, progress(started_at=None), now=1e9) is None
    assert closes_at(CONFIG, progress(started_at=None)) is None


def test_round_closes_at_once_when_its_target_is_reached() -> None:
    reached = progress(accepted_images=1000, leased_images=64, quorum_at=9.0)
    assert close_reason(CONFIG, reached, now=10.0) is CloseReason.TARGET


def test_round_closes_when_what_is_left_is_not_worth_a_lease() -> None:
    assert close_reason(CONFIG, progress(accepted_images=980, quorum_at=9.0), now=10.0) is CloseReason.EXHAUSTED
    still_working = progress(accepted_images=980, leased_images=20, quorum_at=9.0)
    assert close_reason(CONFIG, still_working, now=10.0) is None


def test_grace_is_a_share_of_the_time_the_quorum_took() -> None:
    quorum = progress(accepted_images=600, leased_images=400, quorum_at=40.0)
    assert closes_at(CONFIG, quorum) == 60.0
    assert close_reason(CONFIG, quorum, now=59.9) is None
    assert close_reason(CONFIG, quorum, now=60.0) is CloseReason.GRACE


def test_grace_lasts_until_everyone_has_heard_of_it() -> None:
    assert closes_at(CONFIG, progress(accepted_images=600, leased_images=400, quorum_at=2.0)) == 8.0
    assert closes_at(CONFIG, progress(accepted_images=600, quorum_at=2.0)) == 3.0


def test_grace_never_exceeds_the_time_box() -> None:
    assert closes_at(CONFIG, progress(accepted_images=600, quorum_at=90.0)) == 100.0


def test_time_box_closes_only_a_round_that_has_something() -> None:
    assert close_reason(CONFIG, progress(accepted_images=1, leased_images=500), now=100.0) is CloseReason.TIME
    assert close_reason(CONFIG, progress(accepted_images=0, leased_images=500), now=1000.0) is None
