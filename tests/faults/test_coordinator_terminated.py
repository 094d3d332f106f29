"""The coordinator is asked to stop: it finishes what it writes, leaves with 0, and the next one goes on."""

from __future__ import annotations

import socket
from pathlib import Path

from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import house, wait_until
from tests.integration.live_run import encoded, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")


def test_worker_s_lease_goes_on_with_the_next_coordinator(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "run.total_images=1600", "round.images=800", "lease.probe_steps=100")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        worker = home.worker("worker", run)
        wait_until(worker.is_training, worker)
        assert coordinator.terminate() == 0, coordinator.output
        assert coordinator.result == {"version": 0}
        assert not folder.address.exists()
        home.coordinator(folder)
        assert worker.wait() == 0, worker.output
        assert worker.status["refusals"] == {}
    assert replay(folder).images == 1600
    assert_every_sample_once(folder)


def test_publication_that_is_under_way_is_done_again(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=16", "lease.probe_steps=2")
    obstacle = folder.staging / "update-1"
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        obstacle.symlink_to("/dev/full")  # holds the round where its contributions are fixed and nothing is published
        with volunteers(run, 1) as (anna,):
            anna.submit(anna.lease(), encoded(run, 0.5))
        wait_until(lambda: "storage_error" in coordinator.output, coordinator)
        assert coordinator.terminate() == 0, coordinator.output
        assert coordinator.result == {"version": 0}
        obstacle.unlink()
        _, run = home.coordinator(folder)
        run.wait_for_version(1)
    assert replay(folder).contributions == 1


def test_download_that_nobody_reads_does_not_keep_it(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        large = folder.blobs / ("0" * 64)
        with large.open("wb") as file:
            file.truncate(2**28)  # more than any buffer on the way takes
        port = int(run.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as hanging:
            hanging.sendall(f"GET /blobs/{large.name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert hanging.recv(1)
            assert coordinator.terminate() == 0, coordinator.output
