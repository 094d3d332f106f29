"""Workers outlive a coordinator that is killed: they wait, say so, and what they trained meanwhile counts."""

from __future__ import annotations

from pathlib import Path

from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import house, wait_until
from tests.unit.tiny_data import tiny_run_folder


def test_worker_trains_on_waits_and_hands_in_to_the_next_coordinator(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
        "run.total_images=2400",
        "round.images=800",
        "lease.probe_steps=100",
        "lease.heartbeat_seconds=0.2",
        "lease.timeout_seconds=20",
        "evaluation.every_images=100000",
        "checkpoint.every_images=100000",
    )
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        worker = home.worker("worker", run)
        wait_until(worker.is_training, worker)
        coordinator.kill()
        wait_until(lambda: "waiting_for_coordinator" in worker.output, worker)
        home.coordinator(folder, "--exit-when-complete")
        assert worker.wait() == 0, worker.output
        assert worker.status["refusals"] == {}
    found = replay(folder)
    assert found.images == 2400
    assert_every_sample_once(folder)
