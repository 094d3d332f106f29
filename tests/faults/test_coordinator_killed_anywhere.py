"""The coordinator is killed again and again, at arbitrary moments and at every point by name; nothing is lost."""

from __future__ import annotations

import random
import time
from pathlib import Path

from coordinator.run_folder import RunFolder
from tests.faults.points import Who, points_of
from tests.faults.processes import house, wait_until
from tests.faults.supervisor import Supervisor, assert_no_orphans, assert_nothing_is_lost
from tests.faults.traffic import traffic
from tests.unit.tiny_data import tiny_run_folder

KILLS = 8

BUSY = (
    "run.total_images=1000000",
    "round.images=48",
    "round.quorum=1.0",  # so that no round closes without somebody
    "lease.probe_steps=1",
    "lease.max_steps=2",
    "evaluation.every_images=48",
    "evaluation.draws=1",
    "checkpoint.every_images=96",
    "checkpoint.sampling_steps=1",
)
"""A run that does all that a coordinator does within few seconds."""


def test_every_receipt_counts_once_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BUSY)
    moments = random.Random(7)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with traffic(run, 2) as volunteers:
            for _ in range(KILLS):
                time.sleep(moments.uniform(0.02, 0.5))
                supervisor.process.kill()
                supervisor.start()
            run.wait_for_version(run.status()["version"] + 1)
        settle(supervisor, folder)
    assert volunteers.refusals == []
    assert len(volunteers.receipts) > KILLS
    assert_nothing_is_lost(folder, volunteers.receipts)


def test_every_receipt_counts_once_at_whatever_point_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BUSY)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with traffic(run, 2) as volunteers:
            supervisor.process.kill()
            for point in points_of(Who.COORDINATOR):
                supervisor.begin(point.name)
                supervisor.await_death_at(point.name)
            supervisor.start()
            run.wait_for_version(run.status()["version"] + 1)
        settle(supervisor, folder)
    assert volunteers.refusals == []
    assert_nothing_is_lost(folder, volunteers.receipts)


def settle(supervisor: Supervisor, folder: RunFolder) -> None:
    """Let the last coordinator end, and another one find what they all left."""
    supervisor.process.terminate()
    supervisor.start()
    wait_until(lambda: not any(folder.exports.iterdir()), supervisor.process)
    assert supervisor.process.terminate() == 0, supervisor.process.output
    assert_no_orphans(folder)
