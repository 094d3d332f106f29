"""A worker trains with several processes, and one of them is killed, or the one above them, or all are told to end."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from coordinator.records import LeaseState
from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once, leases_of
from tests.faults.processes import House, Worker, house, wait_until
from tests.integration.live_run import LiveRun, serving
from tests.unit.tiny_data import tiny_run_folder

DEVICES = 2

LEASES_OF_TWO = (
    "run.total_images=1280",
    "round.images=640",
    "lease.probe_steps=40",  # for each of the devices
    "lease.max_steps=40",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=600",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)

ONE_LONG_LEASE = (*LEASES_OF_TWO, "run.total_images=40000", "round.images=40000", "lease.max_steps=5000")


@pytest.mark.slow
def test_killed_rank_s_lease_is_given_back_and_trained_again_by_new_ranks(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *LEASES_OF_TWO)
    with serving(folder) as run, house(tmp_path) as home:
        worker = training_worker(home, run)
        first = ranks_of(worker)
        first[1].kill()
        wait_until(lambda: worker.status["refusals"], worker)
        wait_until(worker.is_training, worker)
        assert len(ranks_of(worker)) == DEVICES
        assert all(is_gone(rank) for rank in first)
        assert worker.wait() == 0, worker.output
        assert worker.status["reason"] == "the run is complete"
        assert worker.status["refusals"] == {"rank_died": 1}
    lost, *others = leases_of(folder, worker.worker_id)
    assert lost.state is LeaseState.RELEASED
    assert set(others[0].ranges) == set(lost.ranges)
    assert {lease.state for lease in others} == {LeaseState.SUBMITTED}
    assert_every_sample_once(folder)
    assert replay(folder).images == 1280


@pytest.mark.slow
def test_ranks_do_not_outlive_a_killed_worker(tmp_path: Path) -> None:
    """Not even where they wait for each other: one is stopped, so that the exchange never ends."""
    folder = tiny_run_folder(tmp_path, *ONE_LONG_LEASE)
    with serving(folder) as run, house(tmp_path) as home:
        worker = training_worker(home, run)
        waiting, stopped = ranks_of(worker)
        stopped.suspend()
        try:
            worker.kill()
            wait_until(lambda: is_gone(waiting))
        finally:
            stopped.resume()
        wait_until(lambda: is_gone(stopped))


@pytest.mark.slow
def test_worker_that_is_told_to_end_together_with_its_ranks_hands_in_what_it_has(tmp_path: Path) -> None:
    """As a service manager does it: the signal goes to every process of the service."""
    folder = tiny_run_folder(tmp_path, *ONE_LONG_LEASE)
    with serving(folder) as run, house(tmp_path) as home:
        worker = training_worker(home, run)
        ranks = ranks_of(worker)
        for rank in ranks:
            rank.send_signal(signal.SIGTERM)
        assert worker.terminate() == 0, worker.output
        assert all(is_gone(rank) for rank in ranks)
        assert worker.status["reason"] == "it was asked to stop"
        assert worker.status["refusals"] == {}
        (lease,) = leases_of(folder, worker.worker_id)
        assert lease.state is LeaseState.SUBMITTED
        assert 0 < worker.status["images_total"] < lease.quota_images
    assert_every_sample_once(folder)


def training_worker(home: House, run: LiveRun) -> Worker:
    """One of two ranks, in the middle of a lease."""
    worker = home.worker("worker", run, "--set", f"devices={DEVICES}")
    wait_until(worker.is_training, worker)
    return worker


def ranks_of(worker: Worker) -> Sequence[psutil.Process]:
    """Its ranks, in the order in which they were started."""
    children = psutil.Process(worker.pid).children()
    return sorted(
        (child for child in children if "spawn_main" in " ".join(child.cmdline())), key=psutil.Process.create_time
    )


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; somebody may yet have to ask for its exit code."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
