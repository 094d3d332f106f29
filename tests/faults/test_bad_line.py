"""A worker outlives whatever its line does, by itself; what it trained counts, and counts once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from coordinator.records import LeaseState
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from tests.faults.bad_line import HOST, BadLine, Fault, bad_line
from tests.faults.coverage import assert_every_sample_once, leases_of
from tests.faults.processes import House, Process, Worker, house, wait_until
from tests.integration.live_run import LiveRun
from tests.unit.tiny_data import tiny_run_folder

ENDLESS = (
    "run.total_images=1000000",
    "round.images=800",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=100",
    "evaluation.every_images=10000000",
    "checkpoint.every_images=10000000",
)
LONG_LEASES = ("lease.probe_steps=100", "lease.max_steps=100")
SHORT_LEASES = ("round.images=160", "lease.probe_steps=10", "lease.max_steps=10")

MANY_FAULTS = 12


@dataclass
class Play:
    """A coordinator, a line to it, and a worker behind that."""

    folder: RunFolder
    home: House
    run: LiveRun
    line: BadLine
    coordinator: Process

    def worker(self, *options: str) -> Worker:
        return self.home.worker_at("worker", [f"http://{HOST}:{httpx2.URL(self.run.url).port}"], *options)

    def worker_in_mid_lease(self) -> Worker:
        """It is in its second: all shards are there, so that nothing but the lease depends on the line."""
        worker = self.worker()
        wait_until(lambda: worker.status.get("leases_done", 0) > 0 and worker.is_training(), worker, self.coordinator)
        return worker

    def must_go_on(self, worker: Worker, more: int = 2) -> None:
        """It hands in so much more."""
        before = worker.status["leases_done"]
        wait_until(lambda: worker.status["leases_done"] >= before + more, worker, self.coordinator)

    def end(self, worker: Worker) -> None:
        """All that was credited is in the ledger, once."""
        assert worker.terminate() == 0, worker.output
        assert self.coordinator.terminate() == 0, self.coordinator.output
        found = [lease.state for lease in leases_of(self.folder, worker.worker_id)]
        assert found.count(LeaseState.SUBMITTED) >= worker.status["leases_done"]
        replay(self.folder)
        assert_every_sample_once(self.folder)


@contextmanager
def play(root: Path, *overrides: str, seed: int = 0) -> Iterator[Play]:
    folder = tiny_run_folder(root, *ENDLESS, *overrides)
    with house(root) as home:
        coordinator, run = home.coordinator(folder)
        with bad_line(home.ports, seed) as line:
            yield Play(folder, home, run, line, coordinator)


@pytest.mark.slow
def test_black_hole_costs_no_lease(tmp_path: Path) -> None:
    """It lasts until the calls of the worker have run into their deadlines, and is of no other kind if it lasts longer."""
    with play(tmp_path, *LONG_LEASES) as here:
        worker = here.worker_in_mid_lease()
        here.line.fault = Fault.HOLE
        wait_until(lambda: "does not answer in time" in worker.status["reason"], worker)
        assert worker.status["state"] == "waiting"
        here.line.fault = Fault.NOTHING
        here.must_go_on(worker)
        assert worker.status["refusals"] == {}
        here.end(worker)


def test_stop_in_a_black_hole_keeps_what_was_trained_for_the_next_start(tmp_path: Path) -> None:
    with play(tmp_path, *LONG_LEASES) as here:
        worker = here.worker_in_mid_lease()
        here.line.fault = Fault.HOLE
        assert worker.terminate() == 0, worker.output
        assert len(list((tmp_path / "worker" / "pending").rglob("*.json"))) == 1
        here.line.fault = Fault.NOTHING
        again = here.worker()
        wait_until(lambda: again.status.get("leases_done", 0) >= 1, again, here.coordinator)
        assert [lease.state for lease in leases_of(here.folder, again.worker_id)][1] is LeaseState.SUBMITTED
        here.end(again)


def test_line_that_refuses_is_waited_for_while_training_goes_on(tmp_path: Path) -> None:
    with play(tmp_path, *LONG_LEASES) as here:
        worker = here.worker_in_mid_lease()
        here.line.fault = Fault.REFUSE
        wait_until(lambda: "waiting_for_coordinator" in worker.output, worker)
        assert "nobody answers at" in worker.output
        here.line.fault = Fault.NOTHING
        here.must_go_on(worker)
        assert worker.status["refusals"] == {}
        here.end(worker)


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.SCRAMBLE], ids=lambda fault: fault.name.lower())
@pytest.mark.parametrize("seed", range(2))
def test_worker_gets_through_connections_that_break_or_lie(tmp_path: Path, fault: Fault, seed: int) -> None:
    with play(tmp_path, *SHORT_LEASES, seed=seed) as here:
        here.line.fault = fault
        worker = here.worker()
        wait_until(lambda: here.line.num_faults >= MANY_FAULTS or None, here.coordinator)
        worker.must_live()
        here.line.fault = Fault.NOTHING
        wait_until(lambda: worker.status.get("leases_done", 0) >= 2, worker, here.coordinator)
        here.end(worker)


def test_worker_that_has_joined_before_starts_although_something_else_answers(tmp_path: Path) -> None:
    with play(tmp_path, *SHORT_LEASES) as here:
        once = here.worker("--leases", "1")
        assert once.wait() == 0, once.output
        here.line.fault = Fault.GARBAGE
        worker = here.home.worker_at("worker", [])
        wait_until(lambda: here.line.num_faults >= MANY_FAULTS or None, worker)
        assert worker.status["state"] in {"waiting", "starting"}
        assert "serves no run: check the address, and log in if this network asks you to" in worker.output
        here.line.fault = Fault.NOTHING
        wait_until(lambda: worker.status.get("leases_done", 0) >= 2, worker, here.coordinator)
        here.end(worker)


@pytest.mark.slow
def test_something_else_that_answers_in_mid_lease_is_waited_out(tmp_path: Path) -> None:
    with play(tmp_path, *LONG_LEASES) as here:
        worker = here.worker_in_mid_lease()
        here.line.fault = Fault.GARBAGE
        wait_until(lambda: here.line.num_faults >= MANY_FAULTS or None, worker)
        wait_until(lambda: worker.status["state"] == "waiting", worker)
        here.line.fault = Fault.NOTHING
        here.must_go_on(worker)
        assert worker.status["refusals"] == {}
        here.end(worker)


def test_wrong_address_is_said_at_once_to_who_never_joined(tmp_path: Path) -> None:
    with play(tmp_path, *SHORT_LEASES) as here:
        here.line.fault = Fault.GARBAGE
        for _ in range(3):
            worker = here.worker()
            if worker.wait() == 3:
                break
        assert "serves no run: check the address" in worker.output


def test_stopped_past_its_lease_the_worker_goes_on_by_itself(tmp_path: Path) -> None:
    short = ("lease.timeout_seconds=1", "round.images=160", "lease.probe_steps=20", "lease.max_steps=20")
    with play(tmp_path, *short) as here:
        worker = here.worker_in_mid_lease()
        os.kill(worker.pid, signal.SIGSTOP)
        (held,) = [lease for lease in leases_of(here.folder, worker.worker_id) if lease.state is LeaseState.ACTIVE]
        wait_until(lambda: state_of(here.folder, worker, held.lease_id) is LeaseState.EXPIRED, here.coordinator)
        os.kill(worker.pid, signal.SIGCONT)
        wait_until(lambda: worker.status["refusals"].get("lease_expired") == 1, worker)
        here.must_go_on(worker)
        assert worker.status["refusals"] == {"lease_expired": 1}
        here.end(worker)


def state_of(folder: RunFolder, worker: Worker, lease_id: int) -> LeaseState:
    return next(lease.state for lease in leases_of(folder, worker.worker_id) if lease.lease_id == lease_id)
