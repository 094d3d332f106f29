"""A worker that is behind gets the fewest bytes that lead to the base: updates, or a snapshot and updates."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from coordinator.ledger import Ledger
from coordinator.records import Version
from coordinator.run_folder import RunFolder
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

NEWEST = 7

ONE_LEASE_A_ROUND = ("round.images=8", "lease.min_steps=1", "lease.probe_steps=1", "lease.max_steps=1")
QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")


def history(folder: RunFolder) -> list[Version]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.versions()


def test_whoever_is_behind_gets_whatever_is_fewer_bytes(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_LEASE_A_ROUND, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        for number in range(1, NEWEST + 1):
            anna.submit(anna.lease(), encoded(run, 0.01 * number))
            run.wait_for_version(number)
        newcomer = anna.lease().catch_up
        ways = [anna.lease(held_version=held, has_weights=True).catch_up for held in range(NEWEST + 1)]
        versions = history(folder)
    base = newcomer[0].version
    assert 0 < base < NEWEST
    assert [blob.kind for blob in newcomer] == [pb.Blob.KIND_SNAPSHOT] + [pb.Blob.KIND_UPDATE] * (NEWEST - base)
    updates = [sum(version.update_bytes for version in versions[held + 1 :]) for held in range(NEWEST + 1)]
    from_snapshot = versions[base].snapshot_bytes + updates[base]
    assert [sum(blob.size_bytes for blob in way) for way in ways] == [min(size, from_snapshot) for size in updates]
    assert ways[0] == newcomer
    assert [blob.version for blob in ways[base]] == list(range(base + 1, NEWEST + 1))
