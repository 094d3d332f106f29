"""A line so slow that weights and deltas take longer than a lease may be silent: heartbeats pass beside them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from coordinator.records import LeaseState
from tests.faults.coverage import leases_of
from tests.integration.daemon_here import work_here
from tests.integration.home_line import HOST, home_line
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder
from worker.loop import Goal

LONG_SECONDS = 4.0
"""What is slow takes so long: four times what a lease may be silent."""

SNAPSHOT_BYTES, DELTA_BYTES = 3_300_000, 850_000
"""The delta is less than one chunk: while it comes in, nothing but heartbeats keeps the lease."""

LARGER = ("model.prx.hidden_size=128", "model.prx.depth=2", "model.prx.heads=4")
QUIET = ("evaluation.max_images=1", "evaluation.every_images=100000", "checkpoint.every_images=100000")
SHORT = ("lease.probe_steps=2", "lease.heartbeat_seconds=0.2", "lease.timeout_seconds=1")


@pytest.mark.parametrize(
    "rates", [{"down": SNAPSHOT_BYTES / LONG_SECONDS}, {"up": DELTA_BYTES / LONG_SECONDS}], ids=["down", "up"]
)
def test_lease_outlives_what_takes_longer_than_its_timeout(tmp_path: Path, rates: dict[str, float]) -> None:
    folder = tiny_run_folder(tmp_path, *LARGER, *QUIET, *SHORT)
    with serving(folder) as run:
        ports = [httpx2.URL(run.url).port or 0, int(run.grpc_target.rpartition(":")[2])]
        with home_line(ports, **rates):
            status = work_here(tmp_path / "worker", f"http://{HOST}:{ports[0]}", Goal(leases=1))
    assert status.refusals == {}
    assert [lease.state for lease in leases_of(folder, status.worker_id)] == [LeaseState.SUBMITTED]
