"""Backups at arbitrary moments of a run under traffic: each is the run at one instant, with every receipt given before."""

from __future__ import annotations

import random
import threading
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.backup import back_up
from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import house, wait_until
from tests.faults.supervisor import times_counted
from tests.faults.traffic import traffic
from tests.unit.tiny_data import tiny_run_folder

BACKUPS = 10


@pytest.mark.slow
def test_every_backup_restores_to_a_run_that_holds_every_receipt_given_before(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
        "run.total_images=1000000",
        "round.images=48",
        "lease.probe_steps=1",
        "lease.max_steps=2",
        "evaluation.every_images=96",  # whose states come and go
        "evaluation.draws=1",
        "checkpoint.every_images=480",
        "checkpoint.sampling_steps=1",
    )
    out, moments, pause, versions = RunFolder(tmp_path / "backup"), random.Random(5), threading.Event(), []
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with traffic(run, 2) as busy:
            for number in range(BACKUPS):
                pause.wait(moments.uniform(0.0, 0.7))
                if number == BACKUPS - 1:  # exports come after everything else, and on a busy machine late
                    wait_until(lambda: run.status()["checkpoints"], coordinator)
                receipts = busy.receipts
                back_up(folder, out)
                restored = RunFolder(tmp_path / f"restored-{number}")
                restore(out, restored)
                assert all(times == 1 for times in times_counted(restored, receipts))
                versions.append(replay(restored).versions)
        assert coordinator.terminate() == 0, coordinator.output
    assert versions == sorted(versions)
    assert len(set(versions)) > BACKUPS // 2, "there was hardly any traffic"
    assert_every_sample_once(restored)
    with closing(Ledger(restored.ledger, read_only=True)) as ledger:
        assert ledger.checkpoints()
