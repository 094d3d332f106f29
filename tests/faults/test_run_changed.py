"""An operator puts back an older copy of a run, whose specification is another: its workers open it anew by themselves."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from coordinator.blobs import BlobStore, read_spec
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from tests.faults.processes import house, wait_until
from tests.unit.tiny_data import tiny_run_folder

SHORT = (
    "run.total_images=1000000",
    "round.images=160",
    "lease.probe_steps=10",
    "lease.max_steps=10",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=20",
    "evaluation.every_images=10000000",
    "checkpoint.every_images=10000000",
)


def test_worker_opens_a_run_anew_whose_specification_has_changed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SHORT)
    older = RunFolder(tmp_path / "older")
    shutil.copytree(folder.root, older.root)
    change_title(older)
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        worker = home.worker("worker", run)
        wait_until(lambda: worker.status.get("leases_done", 0) >= 1, worker)
        coordinator.kill()
        coordinator, _ = home.coordinator(older)
        wait_until(lambda: "run_changed" in worker.output, worker, coordinator)
        before = worker.status["leases_done"]
        wait_until(lambda: worker.status["leases_done"] >= before + 2, worker, coordinator)
        assert worker.terminate() == 0, worker.output


def change_title(folder: RunFolder) -> None:
    ledger = Ledger(folder.ledger, read_only=True)
    before = ledger.spec_sha256()
    ledger.close()
    blobs = BlobStore(folder.blobs, folder.staging)
    spec = read_spec(blobs, before)
    run = spec.config.run.model_copy(update={"title": "another one"})
    other = spec.model_copy(update={"config": spec.config.model_copy(update={"run": run})})
    after = blobs.add_bytes(other.to_bytes())
    with closing(sqlite3.connect(folder.ledger)) as connection, connection:
        connection.execute("UPDATE run SET spec_sha256 = ?", (after,))
