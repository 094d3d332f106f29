"""A worker is paused by its owner: it hands in or gives back, holds nothing, costs nothing, and a kill changes nothing of it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from coordinator.records import LeaseState
from tests.faults.coverage import leases_of
from tests.faults.processes import Worker, house, wait_until
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder
from worker.control.client import ask
from worker.control.messages import Request, Verb
from worker.control.wishes import Wish
from worker.state_folder import StateFolder

ONE_LONG_LEASE_OF_A_MODEL_OF_SOME_SIZE = (
    "run.total_images=400000",
    "round.images=400000",
    "lease.probe_steps=50000",
    "lease.max_steps=50000",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=600",
    "evaluation.every_images=1000000",
    "checkpoint.every_images=1000000",
    "model.prx.hidden_size=256",
    "model.prx.heads=8",
    "model.prx.depth=4",
)

WEIGHTS_BYTES = 10 * 2**20
"""No more than those of the model: a worker that trains holds them several times."""

RESTS = 0.02
"""Of a core."""


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def is_paused(worker: Worker) -> bool:
    return worker.status.get("state") == "paused"


def test_paused_worker_gives_back_what_it_holds_and_goes_on_when_told(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_LONG_LEASE_OF_A_MODEL_OF_SOME_SIZE)
    with serving(folder) as run, house(tmp_path) as home:
        worker, control = home.worker("worker", run), StateFolder(tmp_path / "worker")

        wait_until(worker.is_training, worker)
        worker_id = worker.worker_id

        def states() -> list[LeaseState]:
            return [lease.state for lease in leases_of(folder, worker_id)]

        process = psutil.Process(worker.pid)
        training_bytes = process.memory_info().rss
        assert ask(control, Request(verb=Verb.PAUSE)).wish is Wish.PAUSED
        wait_until(lambda: is_paused(worker), worker, patience_seconds=10)
        assert worker.status["idle_reason"] == "paused"
        assert states() == [LeaseState.SUBMITTED]
        assert worker.status["images_total"] > 0
        time.sleep(1)
        before = cpu_seconds(process)
        time.sleep(3)
        assert cpu_seconds(process) - before < RESTS * 3
        assert training_bytes - process.memory_info().rss > 3 * WEIGHTS_BYTES

        ask(control, Request(verb=Verb.RESUME))
        wait_until(worker.is_training, worker)
        assert worker.status["idle_reason"] is None
        ask(control, Request(verb=Verb.PAUSE, seconds=3600, at_once=True))
        wait_until(lambda: is_paused(worker), worker, patience_seconds=10)
        assert states() == [LeaseState.SUBMITTED, LeaseState.RELEASED]

        worker.kill()
        again = home.worker("worker", run)
        wait_until(lambda: is_paused(again), again)
        assert again.status["idle_reason"] == "paused_for_a_time"
        assert again.status["worker_id"] == ""  # it has not even called
        ask(control, Request(verb=Verb.RESUME))
        wait_until(again.is_training, again)
        ask(control, Request(verb=Verb.STOP))
        assert again.wait() == 0, again.output
        assert states() == [LeaseState.SUBMITTED, LeaseState.RELEASED, LeaseState.SUBMITTED]
