"""A worker is killed in the middle of a lease: others train its data, and the run completes."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.records import LeaseState
from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once, leases_of
from tests.faults.processes import house, wait_until
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder

LONG_LEASES = (
    "run.total_images=3200",
    "round.images=1600",
    "lease.min_steps=100",
    "lease.probe_steps=100",
    "lease.max_steps=100",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=1.0",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)


def test_killed_worker_s_data_is_trained_by_others_and_the_run_completes(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *LONG_LEASES)
    with serving(folder) as run, house(tmp_path) as home:
        victim = home.worker("victim", run)
        survivor = home.worker("survivor", run)
        wait_until(victim.is_training, victim)
        victim.kill()
        assert survivor.wait() == 0, survivor.output
        assert survivor.status["reason"] == "the run is complete"
    assert leases_of(folder, victim.worker_id)[-1].state is LeaseState.EXPIRED
    assert_every_sample_once(folder)
    assert replay(folder).images == 3200


@pytest.mark.slow
def test_worker_that_starts_again_with_its_key_goes_on_at_once(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *LONG_LEASES, "lease.timeout_seconds=600", "run.total_images=1600")
    with serving(folder) as run, house(tmp_path) as home:
        killed = home.worker("worker", run)
        wait_until(killed.is_training, killed)
        killed.kill()
        again = home.worker("worker", run)
        assert again.wait() == 0, again.output
        assert run.status()["joined"] == 1
    assert_every_sample_once(folder)
    assert replay(folder).images == 1600
