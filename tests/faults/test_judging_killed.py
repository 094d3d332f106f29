"""A coordinator is killed at every point of a judgement: no half of it is ever part of the run, and the run goes on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from coordinator.judging.choice import MOST_TRIES
from coordinator.ledger import Ledger
from tests.faults.points import Under, Who, points_of
from tests.faults.processes import house, wait_until
from tests.faults.supervisor import Supervisor, assert_no_orphans
from tests.integration.judging_process import JUDGED
from tests.integration.live_run import LiveRun, encoded, volunteers
from tests.unit.tiny_data import tiny_run_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 500.0
POINTS = [point.name for point in points_of(Who.COORDINATOR, Under.JUDGING)]
CHECKPOINTS = 1 + len(POINTS) // MOST_TRIES
"""Each is given up after so many tries."""


def train(run: LiveRun) -> None:
    with volunteers(run, 1) as (anna,):
        for number in range(1, 2 * CHECKPOINTS + 1):
            anna.submit(anna.lease(), encoded(run, 0.001))
            run.wait_for_version(number)
    wait_until(lambda: len(run.status()["checkpoints"]) == CHECKPOINTS)


def test_a_judgement_is_whole_or_not_there_wherever_its_coordinator_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *JUDGED)
    armed = tmp_path / "armed"
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        train(supervisor.start(POINTS[0], armed))
        supervisor.process.kill()
        armed.touch()
        for point in POINTS:
            supervisor.begin(point)
            supervisor.await_death_at(point, PATIENCE_SECONDS)
        run = supervisor.start()
        status = run.status()
        assert len(status["judgements"]) == 1, "the last point lies after the commit"
        assert {failed["reason"] for failed in status["failed_judgements"]} == {"the coordinator ended meanwhile"}
        assert supervisor.process.terminate() == 0, supervisor.process.output
    assert_no_orphans(folder)
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        (judgement,) = ledger.judgements()
    assert {path.name for path in (folder.judgements / judgement.checkpoint).iterdir()} == set(judgement.sheets)
