"""The run's name leads to another machine from one moment to the next: whoever works under the old address asks anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.replay import replay
from tests.faults.names import Names
from tests.faults.processes import Fresh, house, wait_until
from tests.unit.tiny_data import tiny_run_folder

NAME = "run.example"


@pytest.mark.slow
def test_worker_follows_the_runs_name_to_another_address_in_the_same_process(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
        "run.total_images=1000000",
        "round.images=64",
        "lease.probe_steps=2",
        "lease.max_steps=4",
        "lease.heartbeat_seconds=0.2",
        "lease.timeout_seconds=20",
        "evaluation.every_images=1000000",
        "checkpoint.every_images=1000000",
        "server.tls='own'",
    )
    names = Names(tmp_path)
    names.lead(NAME, "127.0.0.1")
    with house(tmp_path) as home, house(tmp_path, Fresh) as elsewhere:
        coordinator, run = home.coordinator(folder, "--host", "127.0.0.1")
        address = f"https://{NAME}:{home.ports[0]}/#{run.pin}"
        worker = elsewhere.worker_at("worker", [address], environment=names.environment)
        wait_until(lambda: worker.status.get("leases_done", 0) >= 2, coordinator, worker)
        coordinator.kill()
        coordinator, run = home.coordinator(folder, "--host", "127.0.0.2")  # on the same ports
        wait_until(lambda: "waiting_for_coordinator" in worker.output, coordinator, worker)
        before = run.status()["contributions"]
        names.lead(NAME, "127.0.0.2")
        wait_until(lambda: run.status()["contributions"] > before + 1, coordinator, worker)
        assert worker.terminate() == 0, worker.output
        assert worker.status["refusals"] == {}
        assert coordinator.terminate() == 0, coordinator.output
    replay(folder)
