"""Rounds of a real coordinator, from grants to published versions."""

from __future__ import annotations

from pathlib import Path

from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
"""No evaluation but that of version 0."""


def run_of(tmp_path: Path, *overrides: str) -> RunFolder:
    return tiny_run_folder(tmp_path, *QUIET, "lease.probe_steps=2", "lease.heartbeat_seconds=0.5", *overrides)


def close_reasons(folder: RunFolder) -> list[str]:
    ledger = Ledger(folder.ledger, read_only=True)
    latest = ledger.latest_round()
    ledger.close()
    assert latest is not None
    return [latest.close_reason]


def test_round_closes_as_soon_as_its_target_is_reached(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "run.total_images=32", "round.images=32")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        leases = [anna.lease(), bert.lease()]
        assert [lease.quota_images for lease in leases] == [16, 16]
        receipts = [
            volunteer.submit(lease, encoded(run, 0.01)) for volunteer, lease in zip((anna, bert), leases, strict=True)
        ]
        assert [(receipt.images, receipt.round) for receipt in receipts] == [(16, 1), (16, 1)]
        status = run.wait_for_version(1)
        assert (status["images"], status["contributions"], status["workers"]) == (32, 2, 2)
    assert close_reasons(folder) == ["target"]
    assert replay(folder).versions == 2
