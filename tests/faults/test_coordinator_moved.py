"""The coordinator's machine is gone for good: a backup becomes the run elsewhere, and its volunteers follow by themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from coordinator.backup import back_up
from coordinator.ledger import Ledger
from coordinator.records import Contribution
from coordinator.replay import replay
from coordinator.restore import SKIPPED_NUMBERS, restore
from coordinator.run_folder import RunFolder
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.faults.processes import Worker, house, wait_until
from tests.integration.live_run import Volunteer, encoded, refusal, volunteers
from tests.unit.tiny_data import tiny_run_folder

LOST_ROUNDS = 2
ROUNDS_AFTER = 3

T = TypeVar("T")


def contributions(folder: RunFolder) -> list[Contribution]:
    """All of them, in the order in which they came."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        rounds = range(1, ledger.newest_version().version + 2)
        found = [contribution for number in rounds for contribution in ledger.contributions(number)]
    return sorted(found, key=lambda contribution: contribution.contribution_id)


def from_worker(folder: RunFolder, worker: Worker) -> list[Contribution]:
    return [found for found in contributions(folder) if found.worker_id == worker.worker_id]


def test_workers_follow_a_run_that_was_restored_elsewhere_without_a_hand(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
        "run.total_images=1000000",
        "round.images=64",
        "round.quorum=1.0",  # so that no round closes without somebody
        "lease.min_steps=2",
        "lease.probe_steps=2",
        "lease.max_steps=2",
        "evaluation.every_images=1000000",
        "checkpoint.every_images=1000000",
    )
    out, elsewhere = RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "elsewhere" / "run")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            bert = home.worker("bert", run)
            run.wait_for_version(2)
            wait_until(lambda: from_worker(folder, bert), coordinator, bert)
            kept = anna.lease()  # which the backup knows
            back_up(folder, out)  # in mid-round: anna's lease is out
            receipts = {found.contribution_id for found in contributions(out)}
            assert anna.submit(kept, encoded(run, 0.25)).contribution_id not in receipts
            run.wait_for_version(run.status()["version"] + LOST_ROUNDS)
            lost = anna.lease()  # which it does not
            coordinator.kill()
            lost_versions = replay(folder).versions
            shutil.rmtree(folder.root)

            restored = restore(out, elsewhere)
            assert restored.version + LOST_ROUNDS <= lost_versions - 1
            coordinator, _ = home.coordinator(elsewhere)  # on the same ports
            with pytest.raises(grpc.RpcError) as raised:
                insist(lambda: anna.submit(lost, encoded(run, 0.5)))
            assert refusal(raised.value)[1] == "REFUSAL_UNKNOWN_LEASE"
            assert anna.submit(kept, encoded(run, 0.25)).images == kept.quota_images
            grant = anna.lease(held_version=lost.base_version, has_weights=True)
            assert grant.lease_id > SKIPPED_NUMBERS
            anna.submit(grant, encoded(run, 0.5))
            run.wait_for_version(restored.version + ROUNDS_AFTER)
            wait_until(
                lambda: any(found.lease_id > SKIPPED_NUMBERS for found in from_worker(elsewhere, bert)),
                coordinator,
                bert,
            )
            bert.must_live()
        assert bert.terminate() == 0, bert.output
        assert coordinator.terminate() == 0
    assert replay(elsewhere).versions > restored.version + ROUNDS_AFTER
    counted = contributions(elsewhere)
    assert receipts <= {found.contribution_id for found in counted}
    assert not [found for found in counted if lost.lease_id <= found.lease_id <= SKIPPED_NUMBERS]
    assert [found.images for found in counted if found.lease_id == kept.lease_id] == [kept.quota_images]


def insist(call: Callable[[], T]) -> T:
    """The answer, once somebody answers."""
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if refusal(error)[0] is not grpc.StatusCode.UNAVAILABLE:
                raise


def test_worker_that_holds_a_version_of_the_lost_time_gets_a_snapshot(tmp_path: Path) -> None:
    """Whether or not the run has come to a version of that number again, which is other weights then."""
    equal = ("round.images=16", "lease.min_steps=2", "lease.probe_steps=2", "lease.max_steps=2")
    never = ("evaluation.every_images=1000000", "checkpoint.every_images=1000000")
    folder, out = tiny_run_folder(tmp_path, *equal, *never), RunFolder(tmp_path / "backup")
    elsewhere = RunFolder(tmp_path / "elsewhere")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            play(anna, 1, 0.1)
            back_up(folder, out)
            play(anna, 2, 0.2)
            lost = anna.lease().base_digest
            coordinator.kill()
            restore(out, elsewhere)
            home.coordinator(elsewhere)
            ahead = insist(lambda: anna.lease(held_version=2, has_weights=True))
            assert ahead.base_version == 1
            assert ahead.catch_up[0].kind == pb.Blob.KIND_SNAPSHOT
            play(anna, 2, -0.2)
            same_number = anna.lease(held_version=2, has_weights=True)
            assert (same_number.base_version, list(same_number.catch_up)) == (2, [])
            assert same_number.base_digest != lost, "what the worker holds is seen to be something else"


def play(anna: Volunteer, number: int, value: float) -> None:
    anna.submit(anna.lease(), encoded(anna.run, value))
    anna.run.wait_for_version(number)
