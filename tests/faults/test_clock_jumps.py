"""The wall clocks of coordinator and worker jump by a day, together and apart, and nothing of the run depends on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.replay import replay
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import QUICK_WORKER, free_ports, wait_until
from tests.faults.wall_clock import ClockedProcess, WallClock, compiled_clock
from tests.unit.tiny_data import tiny_run_folder

DAY, RIGHT = timedelta(days=1), timedelta(0)
STEPS = [(DAY, DAY), (-DAY, -DAY), (DAY, RIGHT), (-DAY, DAY)]
"""How far coordinator and worker are ahead, one after the other."""

ENDLESS = (
    "run.total_images=1000000",
    "round.images=400",
    "round.max_seconds=600",
    "lease.probe_steps=25",
    "lease.max_steps=25",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=20",
    "evaluation.every_images=400",
    "checkpoint.every_images=2000",
)


@pytest.mark.slow
def test_jumps_of_a_day_change_nothing(tmp_path: Path) -> None:
    library = compiled_clock(tmp_path)
    folder = tiny_run_folder(tmp_path, *ENDLESS)
    ours, theirs = WallClock(tmp_path / "coordinator-clock"), WallClock(tmp_path / "worker-clock")
    http_port, grpc_port = free_ports()
    run = ("--http-port", str(http_port), "--grpc-port", str(grpc_port))
    work = ("worker", "run", f"http://127.0.0.1:{http_port}", *QUICK_WORKER, "--state-dir", str(tmp_path / "worker"))
    with ExitStack() as opened:

        def start(arguments: tuple[str, ...], name: str, clock: WallClock) -> ClockedProcess:
            process = ClockedProcess(arguments, tmp_path / f"{name}.out", clock, library)
            opened.callback(process.kill)
            return process

        coordinator = start(("coordinator", "run", str(folder.root), *run), "coordinator", ours)
        wait_until(folder.address.is_file, coordinator)
        worker = start(work, "worker", theirs)
        wait_until(hands_in(tmp_path / "worker", 1), coordinator, worker)
        for coordinator_ahead, worker_ahead in STEPS:
            wait_until(is_training(tmp_path / "worker"), coordinator, worker)
            ours.jump_to(coordinator_ahead)
            theirs.jump_to(worker_ahead)
            wait_until(hands_in(tmp_path / "worker", 2), coordinator, worker)
            assert status(tmp_path / "worker")["updated_at"][:10] == theirs.now.date().isoformat()
            assert f"{ours.now.date()}T" in coordinator.output.splitlines()[-1]
        assert status(tmp_path / "worker")["refusals"] == {}

        theirs.jump_to(DAY)  # joins from tomorrow, and again when its clock has been set
        assert worker.terminate() == 0, worker.output
        for ahead in (DAY, -DAY):
            theirs.jump_to(ahead)
            again = start((*work, "--leases", "1"), "again", theirs)
            assert again.wait() == 0, again.output
            assert "waiting_for_coordinator" not in again.output
        assert coordinator.terminate() == 0, coordinator.output
    replay(folder)
    assert_every_sample_once(folder)


def status(state: Path) -> dict[str, Any]:
    path = state / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def hands_in(state: Path, more: int) -> Callable[[], bool]:
    before = status(state).get("leases_done", 0)
    return lambda: status(state).get("leases_done", 0) >= before + more


def is_training(state: Path) -> Callable[[], bool]:
    return lambda: status(state)["state"] == "training"
