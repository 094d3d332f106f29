"""The coordinator's disk is full: no receipt without durable bytes, a named refusal, and it recovers by itself."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from tests.faults.processes import house, wait_until
from tests.integration.live_run import LiveRun, encoded, refusal, volunteers
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


DISK_BYTES = 4 * 2**20


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own, of `DISK_BYTES`."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip(f"this machine does not let a small disk be mounted: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run([umount, "-l", str(place)], check=True)


def fill(disk: Path, leave_bytes: int) -> Path:
    """Take all but `leave_bytes` of `disk`; deleting the file gives them back."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    ballast.write_bytes(b"x" * max(free - leave_bytes, 0))
    return ballast


def problems(run: LiveRun) -> list[str]:
    """But for the one that a disk as small as this always has: it will be full soon."""
    found = [problem["name"] for problem in run.status()["live"]["problems"]]
    return [name for name in found if name != "storage_soon"]


def test_full_disk_is_named_and_training_goes_on_by_itself_once_there_is_space(tmp_path: Path) -> None:
    made = tiny_run_folder(tmp_path, *QUIET, "run.total_images=100000", "round.images=16", "lease.probe_steps=2")
    with small_disk(tmp_path / "disk") as disk, house(tmp_path) as home:
        shutil.copytree(made.root, disk / "run")
        folder = RunFolder(disk / "run")
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            anna.submit(anna.lease(), encoded(run, 0.5))
            run.wait_for_version(1)
            lease, data = anna.lease(), encoded(run, 0.25)
            ballast = fill(disk, len(data) // 2)
            with pytest.raises(grpc.RpcError) as refused:
                anna.submit(lease, data)
            assert refusal(refused.value) == FULL
            assert problems(run) == ["storage_full"]
            assert contributions(folder, 2) == 0
            ballast.unlink()
            received = anna.offset(lease.lease_id, data)
            assert anna.submit(lease, data, offset=received).round == 2
            run.wait_for_version(2)
            wait_until(lambda: problems(run) == [], coordinator)
            anna.submit(anna.lease(), encoded(run, 0.125))
            run.wait_for_version(3)
        assert coordinator.terminate() == 0
        assert replay(folder).contributions == 3


def test_version_that_does_not_fit_is_made_to_the_same_bits_once_there_is_space(tmp_path: Path) -> None:
    """The versions before it are not in a saved state either, so the state has to be loaded on the full disk."""
    made = tiny_run_folder(tmp_path, *QUIET, "run.total_images=100000", "round.images=16", "lease.probe_steps=2")
    with small_disk(tmp_path / "disk") as disk, house(tmp_path) as home:
        shutil.copytree(made.root, disk / "run")
        folder = RunFolder(disk / "run")
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            for number in (1, 2):
                anna.submit(anna.lease(), encoded(run, 0.5 * number))
                run.wait_for_version(number)
            obstacle = folder.staging / "update-3"
            obstacle.symlink_to("/dev/full")  # which lets the receipt be given before the disk is full
            anna.submit(anna.lease(), encoded(run, 0.25))
            wait_until(lambda: problems(run) == ["storage_full"], coordinator)
            ballast = fill(disk, 0)
            obstacle.unlink()
            wait_until(lambda: coordinator.output.count("storage_error") > 1, coordinator)
            assert run.status()["version"] == 2
            ballast.unlink()
            run.wait_for_version(3)
            wait_until(lambda: problems(run) == [], coordinator)
        coordinator.must_live()
        assert replay(folder).versions == 4


def contributions(folder: RunFolder, number: int) -> int:
    ledger = Ledger(folder.ledger, read_only=True)
    found = len(ledger.contributions(number))
    ledger.close()
    return found
