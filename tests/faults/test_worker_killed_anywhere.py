"""A worker is killed at every point by name: what it had handed in counts once, and the next start goes on at once."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.ledger import Ledger
from coordinator.records import LeaseId, LeaseState
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.receipt import read_receipts
from tests.faults.coverage import assert_every_sample_once, leases_of
from tests.faults.plan import Action, FaultPlan, passed
from tests.faults.points import Who, points_of
from tests.faults.processes import House, Worker, house, is_stopped, wait_until
from tests.faults.supervisor import await_death_at
from tests.integration.live_run import LiveRun, serving
from tests.unit.tiny_data import tiny_run_folder

SHORT = (
    "run.total_images=1000000",
    "round.images=32",
    "lease.max_steps=2",
    "lease.timeout_seconds=600",  # whoever starts again with its key need not wait for that
    "codec.delta='int4'",
    "codec.feedback=1.0",
    "evaluation.every_images=1000000",
    "checkpoint.every_images=1000000",
)


def start(home: House, root: Path, run: LiveRun, faults: FaultPlan | None = None) -> Worker:
    return home.worker("worker", run, "--set", f"cache_dir='{root / 'cache'}'", faults=faults)


def outbox(root: Path) -> set[Path]:
    return set((root / "worker" / "pending").glob("*/*"))


def complete(root: Path) -> set[LeaseId]:
    """The leases whose contributions lie in the outbox, whole."""
    facts = {path.stem for path in outbox(root) if path.suffix == ".json"}
    vectors = {path.stem for path in outbox(root) if path.suffix == ".dahv"}
    return {LeaseId(int(name.removeprefix("lease-"))) for name in facts & vectors}


def leases_with_a_receipt(root: Path) -> set[LeaseId]:
    """By the worker's own file, of which every line must hold: no process dies in the middle of so short a write."""
    (path,) = (root / "worker" / "receipts").glob("*.jsonl")
    lines = list(read_receipts(path))
    assert [line.problem for line in lines if line.problem] == []
    return {LeaseId(line.receipt.received.lease_id) for line in lines if line.receipt is not None}


def given_by(folder: RunFolder, worker_id: str) -> set[LeaseId]:
    """The leases whose contributions the run has."""
    return {lease.lease_id for lease in leases_of(folder, worker_id) if lease.state is LeaseState.SUBMITTED}


def states(folder: RunFolder, leases: set[LeaseId]) -> set[LeaseState]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return {lease.state for number in leases if (lease := ledger.lease(number)) is not None}


def test_worker_killed_at_every_point_loses_only_what_it_had_yet_to_show_and_counts_nothing_twice(
    tmp_path: Path,
) -> None:
    folder, record = tiny_run_folder(tmp_path, *SHORT), tmp_path / "passed"
    ready: set[LeaseId] = set()
    with serving(folder) as run, house(tmp_path) as home:
        for point in points_of(Who.WORKER):
            worker = start(home, tmp_path, run, FaultPlan(record, point.name))
            await_death_at(worker, point.name, record)
            ready |= complete(tmp_path)
        last = start(home, tmp_path, run)
        wait_until(lambda: run.status()["version"] >= 4, last)  # by then the second epoch has begun
        assert last.terminate() == 0, last.output
        assert run.status()["joined"] == 1
        worker_id = last.worker_id
    assert ready
    assert leases_with_a_receipt(tmp_path) == given_by(folder, worker_id)
    assert states(folder, ready) == {LeaseState.SUBMITTED, LeaseState.RELEASED}  # at some points it is not yet shown
    assert {lease.state for lease in leases_of(folder, worker_id)} == {LeaseState.SUBMITTED, LeaseState.RELEASED}
    assert outbox(tmp_path) == set()
    assert_every_sample_once(folder)
    replay(folder)


@pytest.mark.parametrize("stage", ["contribution: before its commit", "contribution: before its receipt"])
def test_worker_killed_while_it_waits_for_its_receipt_counts_once(tmp_path: Path, stage: str) -> None:
    folder, record = tiny_run_folder(tmp_path, *SHORT), tmp_path / "passed"
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder, faults=FaultPlan(record, stage, action=Action.STOP))
        worker = start(home, tmp_path, run)
        wait_until(lambda: any(line.point == stage for line in passed(record)), coordinator, worker)
        wait_until(lambda: is_stopped(coordinator.pid), coordinator, worker)
        worker.kill()
        (lease,) = complete(tmp_path)
        os.kill(coordinator.pid, signal.SIGCONT)
        again = start(home, tmp_path, run)
        wait_until(lambda: again.status.get("leases_done", 0) >= 2, coordinator, again)
        assert again.terminate() == 0, again.output
        assert coordinator.terminate() == 0, coordinator.output
    assert states(folder, {lease}) == {LeaseState.SUBMITTED}
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        given = [c.lease_id for number in (1, 2) for c in ledger.contributions(number)]
    assert given.count(lease) == 1
    assert outbox(tmp_path) == set()
    replay(folder)
