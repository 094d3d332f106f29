"""A worker is asked to stop: it hands in what it has trained, or gives back what it has not begun, and leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from coordinator.records import LeaseState
from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once, leases_of
from tests.faults.processes import house, wait_until
from tests.integration.live_run import serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

ONE_LONG_LEASE = (
    "run.total_images=40000",
    "round.images=40000",
    "lease.probe_steps=5000",
    "lease.max_steps=5000",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=600",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)


def test_worker_in_the_middle_of_a_lease_hands_in_what_it_has(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_LONG_LEASE)
    with serving(folder) as run, house(tmp_path) as home:
        worker = home.worker("worker", run)
        wait_until(worker.is_training, worker)
        assert worker.terminate() == 0, worker.output
        live = run.status()["live"]
        (lease,) = leases_of(folder, worker.worker_id)
        assert lease.state is LeaseState.SUBMITTED
        assert 0 < live["accepted_images"] == worker.status["images_total"] < lease.quota_images
        assert live["leased_images"] == 0
    assert_every_sample_once(folder)


def test_worker_that_waits_for_work_leaves_at_once(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_LONG_LEASE)
    with serving(folder) as run, house(tmp_path) as home, volunteers(run, 1) as (busy,):
        busy.lease()
        worker = home.worker("worker", run)
        wait_until(lambda: worker.status.get("reason") == "asking for work", worker)
        assert worker.terminate() == 0, worker.output
        assert worker.status["reason"] == "it was asked to stop"


def test_second_signal_leaves_at_once_and_the_next_start_goes_on(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_LONG_LEASE)
    with serving(folder) as run, house(tmp_path) as home:
        worker = home.worker("worker", run)
        wait_until(worker.is_training, worker)
        os.kill(worker.pid, signal.SIGSTOP)  # both signals are there before it can act on the first
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.wait() in {128 + signal.SIGTERM, 128 + signal.SIGINT}
        again = home.worker("worker", run)
        wait_until(again.is_training, again)
        states = [lease.state for lease in leases_of(folder, again.worker_id)]
        assert states == [LeaseState.RELEASED, LeaseState.ACTIVE]
        assert again.terminate() == 0, again.output
    assert replay(folder).versions == 1
