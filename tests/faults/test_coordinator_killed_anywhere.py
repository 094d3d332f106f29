"""The coordinator is killed again and again, at arbitrary moments and at every point by name; nothing is lost."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.points import Who, points_of
from tests.faults.processes import house
from tests.faults.supervisor import BUSY, Supervisor, assert_nothing_is_lost, settle
from tests.faults.traffic import traffic
from tests.unit.tiny_data import tiny_run_folder

KILLS = 8


def test_every_receipt_counts_once_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BUSY)
    moments = random.Random(7)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with traffic(run, 2) as volunteers:
            kills = 0
            while kills < KILLS or len(volunteers.receipts) <= KILLS:
                kills += 1
                time.sleep(
                    moments.uniform(0.02, 0.5) * (1 + kills / KILLS)
                )  # later and later: a slow machine too gets to receipts
                supervisor.process.kill()
                supervisor.start()
            run.wait_for_version(run.status()["version"] + 1)
        settle(supervisor, folder)
    assert volunteers.refusals == []
    assert_nothing_is_lost(folder, volunteers.receipts)


@pytest.mark.parametrize(
    "first",
    [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)],
    ids="{}, of 3".format,
)
def test_every_receipt_counts_once_at_whatever_point_it_is_killed(tmp_path: Path, first: int) -> None:
    folder = tiny_run_folder(tmp_path, *BUSY)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with traffic(run, 2) as volunteers:
            supervisor.process.kill()
            for point in points_of(Who.COORDINATOR)[first::3]:
                supervisor.begin(point.name)
                supervisor.await_death_at(point.name)
            supervisor.start()
            run.wait_for_version(run.status()["version"] + 1)
        settle(supervisor, folder)
    assert volunteers.refusals == []
    assert_nothing_is_lost(folder, volunteers.receipts)
