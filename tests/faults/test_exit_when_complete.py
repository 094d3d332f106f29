"""A coordinator that is to end with its run leaves nothing undone and nobody waiting for it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from pathlib import Path

from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.faults.plan import Action, FaultPlan
from tests.faults.processes import house, is_stopped, wait_until
from tests.faults.supervisor import assert_checkpoints_are_as_published
from tests.integration.damage import flip
from tests.integration.live_run import Volunteer, encoded, volunteers
from tests.unit.tiny_data import tiny_run_folder

ONE_ROUND = (
    "run.total_images=16",
    "round.images=16",
    "round.quorum=1.0",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.sampling_steps=1",
)
SILENT_SOON = "lease.heartbeat_seconds=0.2"


def hand_in(volunteer: Volunteer) -> None:
    grant = volunteer.lease()
    volunteer.submit(grant, encoded(volunteer.run, 0.001 * grant.lease_id))


def checkpoints(folder: RunFolder) -> list[str]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return [checkpoint.name for checkpoint in ledger.checkpoints()]


def test_it_serves_on_until_every_worker_that_was_there_has_heard(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_ROUND)
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder, "--exit-when-complete")
        with volunteers(run, 2) as both:
            for volunteer in both:
                hand_in(volunteer)
            wait_until(lambda: bool(run.status()["live"]["complete"]), coordinator)
            for volunteer in both:
                threading.Event().wait(0.5)
                coordinator.must_live()
                assert volunteer.ask().idle.reason == pb.Idle.REASON_COMPLETE
            assert coordinator.wait() == 0, coordinator.output
    assert len(checkpoints(folder)) == 1
    assert_checkpoints_are_as_published(folder)


def test_it_does_not_wait_for_workers_that_have_left(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_ROUND, SILENT_SOON)
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder, "--exit-when-complete")
        with volunteers(run, 2) as both:
            for volunteer in both:
                hand_in(volunteer)
        assert coordinator.wait() == 0, coordinator.output
    assert len(checkpoints(folder)) == 1


def test_last_checkpoint_is_out_though_the_state_it_is_made_of_was_damaged(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_ROUND, SILENT_SOON)
    linked = FaultPlan(tmp_path / "passed", "export's link is made: after", round=1, action=Action.STOP)
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder, "--exit-when-complete", faults=linked)
        with volunteers(run, 2) as both:
            for volunteer in both:
                hand_in(volunteer)
        wait_until(lambda: is_stopped(coordinator.pid), coordinator)
        flip(folder.state / "state-1.safetensors", 0.9)  # in the weights that are exported
        os.kill(coordinator.pid, signal.SIGCONT)
        assert coordinator.wait() == 0, coordinator.output
    assert len(checkpoints(folder)) == 1
    assert_checkpoints_are_as_published(folder)
    assert len(list(folder.damaged.iterdir())) == 2  # one file by its two names
