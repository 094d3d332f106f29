"""A backup is killed at arbitrary moments: what was backed up before is whole, and the next one goes on from there."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from coordinator.backup import back_up
from coordinator.replay import replay
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from tests.faults.processes import house
from tests.integration.live_run import encoded, volunteers
from tests.unit.tiny_data import tiny_run_folder

KILLS = 8


@pytest.mark.slow
def test_former_or_new_backup_is_whole_wherever_the_next_one_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
        "run.total_images=1000000",
        "round.images=16",
        "lease.min_steps=2",
        "lease.probe_steps=2",
        "lease.max_steps=2",
        "evaluation.every_images=1000000",
        "checkpoint.every_images=1000000",
    )
    out, moments, pause = RunFolder(tmp_path / "backup"), random.Random(3), threading.Event()
    with house(tmp_path) as home:
        _, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            back_up(folder, out)
            versions = [0]
            for kill in range(KILLS):
                anna.submit(anna.lease(), encoded(run, 0.01 * kill))
                newest = run.wait_for_version(kill + 1)["version"]
                taking = home.start(f"backup-{kill}", "coordinator", "backup", str(folder.root), str(out.root))
                pause.wait(moments.uniform(0.05, 0.6))
                taking.kill()
                restored = RunFolder(tmp_path / f"restored-{kill}")
                versions.append(restore(out, restored).version)
                assert versions[-2] <= versions[-1] <= newest
                assert replay(restored).versions == versions[-1] + 1
            assert back_up(folder, out).version == KILLS
    assert not (out.root / "incoming").exists()
    assert replay(out).versions == KILLS + 1
