"""Rounds of a real coordinator, from grants to published versions."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from coordinator.closing import CloseReason
from coordinator.ledger import Ledger
from coordinator.records import Contribution
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, encoded, refusal, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
"""No evaluation but that of version 0."""


def run_of(tmp_path: Path, *overrides: str) -> RunFolder:
    fast = ("lease.probe_steps=2", "lease.heartbeat_seconds=0.2", "lease.timeout_seconds=30")
    return tiny_run_folder(tmp_path, *QUIET, *fast, *overrides)


def close_reason(folder: RunFolder, number: int) -> str:
    with closing(sqlite3.connect(folder.ledger)) as raw:
        (reason,) = raw.execute("SELECT close_reason FROM rounds WHERE number = ?", [number]).fetchone()
    return str(reason)


def contributions(folder: RunFolder, number: int) -> list[Contribution]:
    ledger = Ledger(folder.ledger, read_only=True)
    found = ledger.contributions(number)
    ledger.close()
    return found


def hand_in(run: LiveRun, volunteer: Volunteer, value: float = 0.01, **fields: float) -> pb.SubmitReply:
    return volunteer.submit(volunteer.lease(**fields), encoded(run, value))


def test_round_closes_as_soon_as_its_target_is_reached(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "run.total_images=64", "round.images=32")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        leases = [anna.lease(), bert.lease()]
        assert [lease.quota_images for lease in leases] == [16, 16]
        anna.submit(leases[0], encoded(run, 0.01))
        receipt = bert.submit(leases[1], encoded(run, 0.02))
        assert (receipt.images, receipt.round) == (16, 1)
        status = run.wait_for_version(1)
        assert (status["images"], status["contributions"], status["workers"]) == (32, 2, 2)
        grant = anna.lease(held_version=0, has_weights=True)
        assert (grant.round, grant.base_version, len(grant.catch_up)) == (2, 1, 1)
    assert close_reason(folder, 1) == CloseReason.TARGET
    assert replay(folder).versions == 2


def test_quorum_and_its_grace_close_a_round_without_the_slow(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "round.images=32", "round.quorum=0.5", "round.grace=0.5")
    with serving(folder) as run, volunteers(run, 2) as (quick, slow):
        missed = slow.lease()
        hand_in(run, quick)
        run.wait_for_version(1)
        with pytest.raises(grpc.RpcError) as refused:
            slow.submit(missed, encoded(run))
        assert refusal(refused.value) == (grpc.StatusCode.FAILED_PRECONDITION, "REFUSAL_ROUND_CLOSED")
        assert slow.beat(missed.lease_id).reason == pb.REFUSAL_ROUND_CLOSED
        assert quick.lease().ranges[0] == missed.ranges[0]
    assert close_reason(folder, 1) == CloseReason.GRACE


def test_time_box_closes_a_round_that_has_anything(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "round.images=64", "round.quorum=1.0", "round.max_seconds=1")
    with serving(folder) as run, volunteers(run, 2) as (quick, slow):
        lease = slow.lease()
        hand_in(run, quick)
        orders = []
        while run.status()["version"] == 0:
            orders.append(slow.beat(lease.lease_id).order)
        assert pb.HeartbeatReply.ORDER_HAND_IN in orders
    assert close_reason(folder, 1) == CloseReason.TIME


def test_late_contribution_counts_in_the_next_round_weighed_down(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "round.images=32", "round.quorum=0.5", "round.grace=0.1", "round.late_weight=0.25")
    with serving(folder) as run, volunteers(run, 2) as (quick, slow):
        late = slow.lease()
        hand_in(run, quick)
        run.wait_for_version(1)
        assert quick.lease().round == 2
        assert slow.beat(late.lease_id).order == pb.HeartbeatReply.ORDER_HAND_IN
        receipt = slow.submit(late, encoded(run, 0.5))
        assert (receipt.round, receipt.images) == (2, 16)
        assert slow.submit(late, encoded(run, 0.5)) == receipt
    assert [(c.images, c.weight) for c in contributions(folder, 2)] == [(16, 4.0)]


def test_silent_lease_expires_and_its_data_is_leased_again(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "lease.timeout_seconds=0.5")
    with serving(folder) as run, volunteers(run, 2) as (silent, waiting):
        lost = silent.lease()
        taken = waiting.lease()
        assert taken.ranges != lost.ranges
        while run.status()["live"]["leased_images"] > lost.quota_images:
            waiting.beat(taken.lease_id)
        with pytest.raises(grpc.RpcError) as refused:
            silent.submit(lost, encoded(run))
        assert refusal(refused.value) == (grpc.StatusCode.FAILED_PRECONDITION, "REFUSAL_LEASE_EXPIRED")
        waiting.submit(taken, encoded(run))
        assert waiting.lease().ranges[0] == lost.ranges[0]


def test_leases_are_sized_by_measured_speed(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "round.images=320", "run.total_images=10000", "lease.heartbeat_seconds=5")
    with serving(folder) as run, volunteers(run, 2) as (quick, slow):
        leases = [quick.lease(), slow.lease()]
        quick.submit(leases[0], encoded(run))
        threading.Event().wait(1.0)  # what it measures is time
        slow.submit(leases[1], encoded(run))
        small, large = slow.lease(), quick.lease()
        assert small.quota_images <= large.quota_images / 2


def test_nothing_to_do_is_said_with_its_reason(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "run.total_images=16", "round.images=16")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        lease = anna.lease()
        assert bert.ask(wait_ms=10).idle.reason == pb.Idle.REASON_ROUND_FULL
        anna.submit(lease, encoded(run))
        reasons = [bert.ask(wait_ms=0).idle.reason]
        while reasons[-1] != pb.Idle.REASON_COMPLETE:
            reasons.append(bert.ask(wait_ms=100).idle.reason)
        assert set(reasons) <= {pb.Idle.REASON_ROUND_FULL, pb.Idle.REASON_CLOSING, pb.Idle.REASON_COMPLETE}
        assert run.status()["live"]["complete"]


def test_waiting_worker_is_woken_by_the_next_round(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "round.images=16")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        lease = anna.lease()
        granted: list[pb.LeaseGrant] = []
        waiting = threading.Thread(target=lambda: granted.append(bert.lease(wait_ms=20_000)))
        waiting.start()
        anna.submit(lease, encoded(run))
        waiting.join()
        assert [grant.round for grant in granted] == [2]


def test_uploads_of_a_round_that_has_closed_are_deleted(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "round.images=32", "round.quorum=0.5", "round.grace=0.1")
    with serving(folder) as run, volunteers(run, 2) as (quick, broken):
        lease, data = broken.lease(), encoded(run, 0.5)
        with pytest.raises(grpc.RpcError):
            broken.submit(lease, data, upto=1000)
        assert len(list(folder.staging.glob("upload-*"))) == 1
        hand_in(run, quick)
        run.wait_for_version(1)
        assert quick.lease().round == 2
    assert list(folder.staging.iterdir()) == []


def test_lease_that_ends_while_its_upload_comes_in_never_becomes_a_blob(tmp_path: Path) -> None:
    folder = run_of(tmp_path)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        lease, data = anna.lease(), encoded(run, 0.5)

        def parts() -> Iterator[pb.SubmitRequest]:
            yield pb.SubmitRequest(header=anna.header(lease, data))
            yield pb.SubmitRequest(chunk=data[:1000])
            anna.release(lease.lease_id)
            yield pb.SubmitRequest(chunk=data[1000:])

        with pytest.raises(grpc.RpcError) as refused:
            anna.call("Submit", parts())
        assert refusal(refused.value)[1] == "REFUSAL_LEASE_EXPIRED"
        assert not (folder.blobs / hashlib.sha256(data).hexdigest()).exists()


@pytest.mark.parametrize("stopped_after", ["grant", "upload", "receipt"])
def test_stopped_coordinator_goes_on_where_it_was(tmp_path: Path, stopped_after: str) -> None:
    folder = run_of(tmp_path, "round.images=16")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        lease, data = anna.lease(), encoded(run, 0.5)
        if stopped_after == "upload":
            with pytest.raises(grpc.RpcError):
                anna.submit(lease, data, upto=1000)
        if stopped_after == "receipt":
            anna.submit(lease, data)
    with serving(folder) as run, volunteers(run, 1) as (other,):
        other.token, other.identity = anna.token, anna.identity  # the same session
        assert other.offset(lease.lease_id, data) == (1000 if stopped_after == "upload" else 0)
        offset = 1000 if stopped_after == "upload" else 0
        assert other.submit(lease, data, offset=offset).round == 1
        run.wait_for_version(1)
    found = replay(folder)
    assert (found.versions, found.contributions, found.images) == (2, 1, 16)


def test_gradients_are_averaged_under_an_outer_adamw(tmp_path: Path) -> None:
    gradients = ("inner.optimizer='gradient'", "outer.optimizer='adamw'", "outer.learning_rate=0.001")
    folder = run_of(tmp_path, *gradients, "lease.probe_steps=1", "lease.max_steps=1", "round.images=16")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        for number in (1, 2, 3):
            leases = [anna.lease(), bert.lease()]
            assert [lease.quota_images for lease in leases] == [8, 8]
            anna.submit(leases[0], encoded(run, 1.0))
            bert.submit(leases[1], encoded(run, 3.0))
            run.wait_for_version(number)
    assert replay(folder).versions == 4
