"""The coordinator is killed at every point of letting go of what is too much, and of healing what is damaged."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from coordinator.ledger import Ledger
from coordinator.replay import replay
from tests.faults.points import Under, Who, points_of
from tests.faults.processes import house, wait_until
from tests.faults.supervisor import (
    BUSY,
    Supervisor,
    assert_checkpoints_are_as_published,
    assert_nothing_is_lost,
    settle,
)
from tests.faults.traffic import traffic
from tests.integration.damage import ROUNDS, flip, problems, train
from tests.integration.live_run import volunteers
from tests.unit.tiny_data import tiny_run_folder

OUTGROWN = "storage.quota_gib=0.00001"
"""Whatever may go goes at once."""

CHECKPOINTS = ("evaluation.every_images=1000000", "checkpoint.every_images=48")
"""One a round, of which the first, the best and the latest stay."""

pytestmark = pytest.mark.timeout(900)

PATIENCE_SECONDS = 200.0
"""Exports come after everything else, and on a busy machine late."""

PAUSE_SECONDS = 0.1
"""Of a volunteer before a lease: rounds that leave time to export."""

EACH_ROUND = (
    "evaluation.every_images=8",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.every_images=8",
    "checkpoint.sampling_steps=1",
)


@pytest.mark.slow
def test_nothing_that_is_needed_goes_at_whatever_point_of_housekeeping_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BUSY, *CHECKPOINTS, OUTGROWN)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with traffic(run, 2, PAUSE_SECONDS) as crowd:
            supervisor.process.kill()
            for point in points_of(Who.COORDINATOR, Under.QUOTA):
                supervisor.begin(point.name)
                supervisor.await_death_at(point.name, PATIENCE_SECONDS)
            supervisor.start()
            run.wait_for_version(run.status()["version"] + 1)
        settle(supervisor, folder)
    assert crowd.refusals == []
    assert_nothing_is_lost(folder, crowd.receipts)
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        anchor, withdrawn = (
            ledger.anchor(),
            {c.version for c in ledger.exported()} - {c.version for c in ledger.checkpoints()},
        )
    assert anchor is not None
    assert anchor.version > 0
    assert withdrawn


def test_what_is_damaged_is_healed_at_whatever_point_of_that_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, *EACH_ROUND)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with volunteers(run, 1) as (anna,):
            train(run, anna, 3)
            wait_until(lambda: not any(folder.exports.iterdir()), supervisor.process)
        assert supervisor.process.terminate() == 0
        with closing(Ledger(folder.ledger, read_only=True)) as ledger:
            versions, checkpoints = ledger.versions(), ledger.checkpoints()
        damaged = [checkpoint.name for checkpoint in checkpoints[-2:]]
        for name in damaged:
            flip(folder.checkpoints / name / "transformer/diffusion_pytorch_model.safetensors")
        flip(folder.state / "state-2.safetensors")
        for version in versions:
            if version.snapshot_sha256 and (snapshot := folder.blobs / version.snapshot_sha256).is_file():
                flip(snapshot)
        for point in points_of(Who.COORDINATOR, Under.DAMAGE):
            supervisor.begin(point.name)
            supervisor.await_death_at(point.name)
        run = supervisor.start()
        with volunteers(run, 1) as (bert,):  # who has no weights yet
            train(run, bert, 5)
            wait_until(lambda: not set(problems(run)) - {f"damaged:{name}" for name in damaged}, supervisor.process)
        listing = run.get("/checkpoints.json").json()["checkpoints"]
        assert not {checkpoint["name"] for checkpoint in listing} & set(damaged)
        assert supervisor.process.terminate() == 0, supervisor.process.output
    assert_checkpoints_are_as_published(folder)
    assert replay(folder).versions == 6
