"""The coordinator's disk is full: no receipt without durable bytes, a named refusal, and it recovers by itself."""

from __future__ import annotations

import resource
from pathlib import Path

import grpc
import pytest

from coordinator.ledger import Ledger
from coordinator.replay import replay
from tests.faults.processes import house, wait_until
from tests.integration.live_run import encoded, refusal, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "REFUSAL_STORAGE_FULL")


def limit_files(pid: int, size_bytes: int) -> None:
    """No file of process `pid` grows past `size_bytes`: a write fails as it does on a full disk."""
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, most))


def test_contribution_that_does_not_fit_is_refused_and_goes_through_later(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=16", "lease.probe_steps=2")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            lease, data = anna.lease(), encoded(run, 0.5)
            limit_files(coordinator.pid, len(data) // 2)
            with pytest.raises(grpc.RpcError) as refused:
                anna.submit(lease, data)
            assert refusal(refused.value) == FULL
            received = anna.offset(lease.lease_id, data)
            assert received <= len(data) // 2
            limit_files(coordinator.pid, resource.RLIM_INFINITY)
            receipt = anna.submit(lease, data, offset=received)
            assert (receipt.images, receipt.round) == (16, 1)
            run.wait_for_version(1)
        coordinator.must_live()
    assert replay(folder).contributions == 1


def test_ledger_that_cannot_grow_refuses_and_changes_nothing(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=64", "lease.probe_steps=2")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 2) as (anna, bert):
            lease, data = anna.lease(), encoded(run, 0.5)
            limit_files(coordinator.pid, 1)
            for call in (lambda: anna.submit(lease, data), bert.lease):
                with pytest.raises(grpc.RpcError) as refused:
                    call()
                assert refusal(refused.value) == FULL
            limit_files(coordinator.pid, resource.RLIM_INFINITY)
            ledger = Ledger(folder.ledger, read_only=True)
            assert ledger.contributions(1) == []
            assert [active.lease_id for active in ledger.active_leases()] == [lease.lease_id]
            ledger.close()
            assert anna.submit(lease, data, offset=anna.offset(lease.lease_id, data)).images == 16
            assert bert.lease().ranges[0] != lease.ranges[0]
        coordinator.must_live()


def test_publishing_waits_for_space(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=16", "lease.probe_steps=2")
    obstacle = folder.staging / "update-1"
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        obstacle.symlink_to("/dev/full")
        with volunteers(run, 1) as (anna,):
            anna.submit(anna.lease(), encoded(run, 0.5))
            wait_until(lambda: "storage_error" in coordinator.output, coordinator)
            assert run.status()["version"] == 0
            obstacle.unlink()
            run.wait_for_version(1)
    assert replay(folder).contributions == 1
