"""More than a coordinator takes at once: told when to come back, never lost; and calls that make no sense."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from coordinator.run_folder import RunFolder
from diffusion_at_home.refusals import RETRY_AFTER_METADATA
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, refusal, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
ONE_LEASE = ("lease.probe_steps=2", "round.images=16", "server.max_waiting=1")

METHODS = ("Join", "Lease", "Heartbeat", "SubmitOffset", "Release", "Submit", "Nothing")
NUM_MUTATED = 200


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return tiny_run_folder(tmp_path, *QUIET, *ONE_LEASE)


@pytest.fixture
def run(folder: RunFolder) -> Iterator[LiveRun]:
    with serving(folder) as run:
        yield run


def wait_until_waiting(run: LiveRun, number: int) -> None:
    deadline = time.monotonic() + 60
    while f"dah_waiting_workers {number}.0" not in run.get("/metrics").text:
        assert time.monotonic() < deadline


def test_line_that_is_full_tells_the_next_when_to_ask_again_and_serves_the_first(run: LiveRun) -> None:
    with volunteers(run, 3) as (anna, bert, carl), ThreadPoolExecutor(1) as threads:
        lease = anna.lease()
        waiting = threads.submit(bert.lease, wait_ms=60_000)
        wait_until_waiting(run, 1)
        reply = carl.ask(wait_ms=60_000)
        assert reply.idle.reason == pb.Idle.REASON_ROUND_FULL
        assert reply.idle.retry_after_ms > 0
        anna.release(lease.lease_id)
        assert waiting.result().ranges == lease.ranges


def test_workers_that_wait_when_the_coordinator_stops_are_told_to_come_back(folder: RunFolder) -> None:
    with ThreadPoolExecutor(1) as threads:
        with serving(folder) as run:
            anna, bert = Volunteer(run), Volunteer(run)
            anna.join()
            bert.join()
            lease = anna.lease()
            waiting = threads.submit(bert.ask, wait_ms=60_000)
            wait_until_waiting(run, 1)
        error = waiting.exception()
        assert isinstance(error, grpc.RpcError)
        assert refusal(error) == (grpc.StatusCode.UNAVAILABLE, "REFUSAL_SHUTTING_DOWN")
        assert isinstance(error, grpc.Call)
        assert int(dict(error.trailing_metadata() or ())[RETRY_AFTER_METADATA]) > 0
        anna.channel.close()
        bert.channel.close()
    with serving(folder) as run:  # sessions and leases outlive it: nobody has to join again
        again = Volunteer(run)
        again.token = anna.token
        assert again.beat(lease.lease_id).order == pb.HeartbeatReply.ORDER_CONTINUE
        again.channel.close()


def test_mutated_requests_change_nothing_and_learn_nothing(run: LiveRun) -> None:
    chance = random.Random(0)
    with volunteers(run, 1) as (anna,):
        lease = anna.lease()
        before = run.status()
        honest = pb.HeartbeatRequest(lease_id=lease.lease_id).SerializeToString()
        answers = {_mutated(anna, chance, honest) for _ in range(NUM_MUTATED)}
        after = run.status()
        assert anna.beat(lease.lease_id).order == pb.HeartbeatReply.ORDER_CONTINUE
    for key in ("version", "joined", "contributions", "active_leases"):
        assert after[key] == before[key]
    told = " ".join(answers)
    for word in ("Traceback", "Exception", "Error", "<class", "site-packages", "fault of its own"):
        assert word not in told


def _mutated(volunteer: Volunteer, chance: random.Random, honest: bytes) -> str:
    """Make one call that makes no sense, and hand back what it is told."""
    data = bytearray(chance.choice((honest, chance.randbytes(chance.choice((1, 10, 1000, 400_000))))))
    for _ in range(3):
        data[chance.randrange(len(data))] = chance.randrange(256)
    name = chance.choice(METHODS)
    token = chance.choice((volunteer.token, "x", "x" * 20_000))
    path = f"/diffusion_at_home.v1.Coordinator/{name}"
    metadata = (("authorization", f"Bearer {token}"),)
    channel = volunteer.channel
    try:
        if name == "Submit":
            channel.stream_unary(path)(iter([bytes(data)] * 2), timeout=60, metadata=metadata)
        else:
            channel.unary_unary(path)(bytes(data), timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        return _details(error)
    return ""


def _details(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    return error.details() or ""
