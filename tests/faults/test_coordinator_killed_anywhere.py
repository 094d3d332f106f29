"""The coordinator is killed again and again at arbitrary moments: every receipt it ever gave counts exactly once."""

from __future__ import annotations

import random
import threading
from pathlib import Path

from coordinator.blobs import file_sha256
from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import house
from tests.faults.stubborn import Stubborn, assert_each_counts_once
from tests.integration.live_run import volunteers
from tests.unit.tiny_data import tiny_run_folder

KILLS = 8


def test_every_receipt_counts_once_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
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
    moments, over = random.Random(7), threading.Event()
    with house(tmp_path) as home:
        process, run = home.coordinator(folder)
        with volunteers(run, 2) as joined:
            workers = [Stubborn(volunteer, over) for volunteer in joined]
            for worker in workers:
                worker.start()
            for _ in range(KILLS):
                over.wait(moments.uniform(0.02, 0.5))
                process.kill()
                process, _ = home.coordinator(folder)
            run.wait_for_version(run.status()["version"] + 1)
            over.set()
            for worker in workers:
                worker.join()
        assert process.terminate() == 0, process.output
    assert [worker.refusals for worker in workers] == [[], []]
    receipts = [receipt for worker in workers for receipt in worker.receipts]
    assert_each_counts_once(folder, receipts)
    assert len(receipts) > KILLS
    assert replay(folder).versions > 1
    assert_every_sample_once(folder)
    assert_checkpoints_are_as_published(folder)


def assert_checkpoints_are_as_published(folder: RunFolder) -> None:
    ledger = Ledger(folder.ledger, read_only=True)
    for checkpoint in ledger.checkpoints():
        manifest = folder.checkpoints / checkpoint.name / MANIFEST_NAME
        assert file_sha256(manifest) == checkpoint.manifest_sha256
    ledger.close()
