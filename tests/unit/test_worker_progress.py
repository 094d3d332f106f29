from datetime import UTC, datetime
from pathlib import Path

import pytest

from diffusion_at_home.clock import ManualClock
from diffusion_at_home.errors import ConfigError, Unreachable
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.live_line import render
from worker.progress import Progress, Status, WorkerState, read_status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "status.json"


def test_the_file_says_why_the_worker_waits(path: Path) -> None:
    progress = Progress(path, ManualClock())
    progress.enter(WorkerState.FETCHING, "shards")
    with progress.waiting(Unreachable("nobody answers at host:8401")):
        assert read_status(path).state is WorkerState.WAITING
        assert read_status(path).reason == "nobody answers at host:8401"
    assert (read_status(path).state, read_status(path).reason) == (WorkerState.FETCHING, "shards")


def test_steps_are_written_once_a_second_and_average_the_loss_over_images(path: Path) -> None:
    clock = ManualClock()
    progress = Progress(path, clock)
    progress.granted(version=3, quota_images=96)
    progress.trained(64, 1.0)
    progress.trained(96, 4.0)
    assert progress.status.loss == 2.0
    assert read_status(path).lease_images == 64  # written when training began
    clock.advance(1)
    progress.trained(97, 2.0)
    assert read_status(path).lease_images == 97


def test_the_time_in_each_state_is_added_up(path: Path) -> None:
    clock = ManualClock()
    progress = Progress(path, clock)
    for state, seconds in ((WorkerState.FETCHING, 1), (WorkerState.TRAINING, 10), (WorkerState.FETCHING, 2)):
        progress.enter(state, "because")
        clock.advance(seconds)
        progress.enter(state, "still")
    progress.enter(WorkerState.WAITING, "for work")
    assert read_status(path).seconds == {
        WorkerState.STARTING: 0.0,
        WorkerState.FETCHING: 3.0,
        WorkerState.TRAINING: 10.0,
    }


def test_refusals_are_counted_by_name(path: Path) -> None:
    progress = Progress(path, ManualClock())
    for reason in ("round_closed", "no_time", "round_closed"):
        progress.lost(reason)
    progress.credited(64)
    assert read_status(path).refusals == {"round_closed": 2, "no_time": 1}
    assert (read_status(path).images_total, read_status(path).leases_done) == (64, 1)


def test_no_worker_yet_is_said_in_one_sentence(path: Path) -> None:
    with pytest.raises(ConfigError, match="start one with dah worker run"):
        read_status(path)


def test_a_rest_is_named_and_forgotten_when_work_goes_on(path: Path) -> None:
    progress = Progress(path, ManualClock())
    until = datetime(2026, 11, 28, 14, tzinfo=UTC)
    progress.rest(Hindrance(IdleReason.PAUSED_FOR, "you have paused it until 14:00", until))
    status = read_status(path)
    assert (status.state, status.idle_reason, status.until) == (WorkerState.PAUSED, IdleReason.PAUSED_FOR, until)
    assert render(status).plain == "paused: you have paused it until 14:00  0 images handed in"
    progress.enter(WorkerState.STARTING, "looking for a run")
    assert (read_status(path).idle_reason, read_status(path).until) == (None, None)


def test_the_line_says_state_reason_and_numbers() -> None:
    status = Status(
        pid=1,
        state=WorkerState.TRAINING,
        reason="version 12",
        lease_images=64,
        lease_quota_images=128,
        images_per_second=210.4,
        loss=0.03121,
        images_total=8000,
        bytes_up=1_200_000,
        bytes_down=0,
        updated_at=datetime.now(UTC),
    )
    assert render(status).plain == (
        "training: version 12  64/128 images  210 images/s  loss 0.0312  up 1.2 MB  down 0 bytes  8000 images handed in"
    )
