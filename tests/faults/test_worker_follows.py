"""A run moves to another address, or comes back on another port: its workers find it by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import free_ports, house, wait_until
from tests.unit.tiny_data import tiny_run_folder

ENDLESS = (
    "run.total_images=1000000",
    "round.images=800",
    "lease.probe_steps=100",
    "lease.max_steps=100",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=100",
    "evaluation.every_images=10000000",
    "checkpoint.every_images=10000000",
)


@pytest.mark.slow
def test_workers_follow_a_run_that_moves_and_remember_where_it_was_last(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ENDLESS)
    with house(tmp_path) as home:
        old, (new_http, new_grpc) = home.ports, free_ports()
        coordinator, _ = home.coordinator(folder)
        addresses = [f"http://127.0.0.1:{port}" for port in (old[0], new_http)]
        worker = home.worker_at("worker", addresses)

        def goes_on(more: int) -> None:
            wait_until(worker.is_training, worker)
            wait_until(lambda: worker.status["leases_done"] >= more, worker)

        goes_on(1)
        wait_until(worker.is_training, worker)
        coordinator.kill()
        home.ports = (new_http, new_grpc)  # elsewhere
        coordinator, _ = home.coordinator(folder)
        goes_on(worker.status["leases_done"] + 2)
        (remembered,) = (tmp_path / "worker" / "runs").glob("*.json")
        found = json.loads(remembered.read_text())
        assert (found["url"], found["others"]) == (addresses[1], [addresses[0]])

        coordinator.kill()
        home.ports = (new_http, old[1])  # the same page says another port
        coordinator, _ = home.coordinator(folder)
        goes_on(worker.status["leases_done"] + 2)

        assert worker.output.count("coordinator_moved") == 2
        assert worker.status["refusals"] == {}
        assert worker.terminate() == 0, worker.output
        again = home.worker_at("worker", [], "--leases", "1")  # knows the new address
        assert again.wait() == 0, again.output
        assert "waiting_for_coordinator" not in again.output.removeprefix(worker.output)
        assert coordinator.terminate() == 0
    replay(folder)
    assert_every_sample_once(folder)
