"""Every refusal of the protocol as a volunteer meets it, and what a Submit promises, on a real coordinator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.run_folder import RunFolder
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.config.run import Codec
from diffusion_at_home.refusals import MEANINGS, short_name
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, encoded, refusal, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return tiny_run_folder(tmp_path_factory.mktemp("run"), *QUIET, "lease.probe_steps=2", "round.images=1000")


@pytest.fixture(scope="module")
def run(folder: RunFolder) -> Iterator[LiveRun]:
    """One for all tests here: its round is so large that none of them closes it."""
    with serving(folder) as run:
        yield run


@pytest.fixture
def anna(run: LiveRun) -> Iterator[Volunteer]:
    with volunteers(run, 1) as (anna,):
        yield anna


def assert_refused(run: LiveRun, name: str, call: Callable[[], object]) -> None:
    """`call` is refused with the status and the name of the table, and counted."""
    before = run.status()["live"]["refusals"].get(name.lower(), 0)
    with pytest.raises(grpc.RpcError) as raised:
        call()
    status = next(MEANINGS[code].status for code in MEANINGS if short_name(code) == name.lower())
    assert refusal(raised.value) == (status, f"REFUSAL_{name}")
    assert run.status()["live"]["refusals"][name.lower()] == before + 1


# -- who may speak ----------------------------------------------------------------------------------------------------


def test_other_protocol_version(run: LiveRun, anna: Volunteer) -> None:
    other = PROTOCOL_VERSION + 1
    assert_refused(run, "VERSION_MISMATCH", lambda: anna.stub.Join(anna.join_request(protocol_version=other)))
    assert_refused(run, "VERSION_MISMATCH", lambda: anna.call("Lease", pb.LeaseRequest(protocol_version=other)))


def test_malformed_join(run: LiveRun, anna: Volunteer) -> None:
    assert_refused(run, "MALFORMED", lambda: anna.stub.Join(anna.join_request(display_name="x" * 65)))


def test_signature_that_proves_nothing_and_join_that_was_seen_before(run: LiveRun, anna: Volunteer) -> None:
    assert_refused(run, "BAD_SIGNATURE", lambda: anna.stub.Join(anna.join_request(signature=b"s" * 64)))
    request = anna.join_request()
    anna.stub.Join(request)
    assert_refused(run, "BAD_SIGNATURE", lambda: anna.stub.Join(request))


@pytest.mark.parametrize("method", ["Lease", "Heartbeat", "SubmitOffset", "Release"])
def test_every_call_needs_a_session(run: LiveRun, anna: Volunteer, method: str) -> None:
    anna.token = "stolen"
    assert_refused(run, "UNKNOWN_SESSION", lambda: anna.call(method, getattr(pb, f"{method}Request")()))


def test_submit_needs_a_session_too(run: LiveRun, anna: Volunteer) -> None:
    lease = anna.lease()
    anna.token = ""
    assert_refused(run, "UNKNOWN_SESSION", lambda: anna.submit(lease, encoded(run)))


# -- whose lease ------------------------------------------------------------------------------------------------------


def test_lease_of_somebody_else(run: LiveRun, anna: Volunteer) -> None:
    with volunteers(run, 1) as (bert,):
        theirs = bert.lease()
        assert_refused(run, "UNKNOWN_LEASE", lambda: anna.submit(theirs, encoded(run)))
        assert_refused(run, "UNKNOWN_LEASE", lambda: anna.offset(theirs.lease_id, b""))
        assert_refused(run, "UNKNOWN_LEASE", lambda: anna.release(theirs.lease_id))
        beat = anna.beat(theirs.lease_id)
        assert (beat.order, beat.reason) == (pb.HeartbeatReply.ORDER_ABANDON, pb.REFUSAL_UNKNOWN_LEASE)
        assert bert.beat(theirs.lease_id).order == pb.HeartbeatReply.ORDER_CONTINUE


def test_lease_that_was_given_back(run: LiveRun, anna: Volunteer) -> None:
    lease = anna.lease()
    anna.release(lease.lease_id)
    assert_refused(run, "LEASE_EXPIRED", lambda: anna.submit(lease, encoded(run)))
    assert anna.beat(lease.lease_id).reason == pb.REFUSAL_LEASE_EXPIRED


def test_released_data_goes_to_the_next_who_asks(run: LiveRun, anna: Volunteer) -> None:
    lease = anna.lease()
    anna.release(lease.lease_id)
    with volunteers(run, 1) as (bert,):
        again = bert.lease()
        assert (again.ranges, again.seed) == (lease.ranges, lease.seed)


def test_worker_that_asks_anew_has_given_back_what_it_held(anna: Volunteer) -> None:
    before = anna.lease()
    after = anna.lease()
    assert after.ranges == before.ranges
    assert anna.beat(before.lease_id).order == pb.HeartbeatReply.ORDER_ABANDON


# -- what is handed in ------------------------------------------------------------------------------------------------


def test_lying_header(run: LiveRun, anna: Volunteer) -> None:
    lease, data = anna.lease(), encoded(run)
    assert_refused(run, "WRONG_SIZE", lambda: anna.submit(lease, data, size_bytes=2**62))
    assert_refused(run, "WRONG_SIZE", lambda: anna.submit(lease, data, size_bytes=len(data) // 2))
    assert_refused(run, "WRONG_IMAGES", lambda: anna.submit(lease, data, images=lease.quota_images + 1))
    assert_refused(run, "WRONG_IMAGES", lambda: anna.submit(lease, data, images=0))
    assert_refused(run, "MALFORMED", lambda: anna.submit(lease, data, sha256="../../../etc/passwd"))
    assert anna.offset(lease.lease_id, data) == 0
    assert_refused(run, "NOT_FINITE", lambda: anna.submit(lease, data, mean_loss=math.nan))


def test_stream_without_a_header_and_name_that_is_no_digest(run: LiveRun, anna: Volunteer) -> None:
    lease = anna.lease()
    assert_refused(run, "MALFORMED", lambda: anna.send([pb.SubmitRequest(chunk=b"x")]))
    assert_refused(run, "MALFORMED", lambda: anna.send([]))
    name = pb.SubmitOffsetRequest(lease_id=lease.lease_id, sha256="\u00e9" * 64)
    assert_refused(run, "MALFORMED", lambda: anna.call("SubmitOffset", name))


def test_lying_bytes(run: LiveRun, anna: Volunteer) -> None:
    lease, data = anna.lease(), encoded(run)
    broken = bytes([*data[:8], data[8] ^ 1, *data[9:]])
    assert_refused(run, "WRONG_DIGEST", lambda: anna.submit(lease, data, sha256="0" * 64))
    assert_refused(run, "UNDECODABLE", lambda: anna.submit(lease, broken))
    assert_refused(run, "WRONG_SIZE", lambda: anna.submit(lease, data + b"x", size_bytes=len(data)))
    assert anna.submit(lease, data).images == lease.quota_images


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "codec.delta='fp32'")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        lease = anna.lease()
        assert_refused(run, "NOT_FINITE", lambda: anna.submit(lease, encoded(run, math.nan, Codec.FP32)))


def test_broken_stream_goes_on_from_where_it_is(run: LiveRun, anna: Volunteer) -> None:
    lease, data = anna.lease(), encoded(run, 0.5)
    half = len(data) // 2
    assert_refused(run, "WRONG_OFFSET", lambda: anna.submit(lease, data, upto=half))
    assert anna.offset(lease.lease_id, data) == half
    assert_refused(run, "WRONG_OFFSET", lambda: anna.submit(lease, data))
    assert anna.submit(lease, data, offset=half).images == lease.quota_images


def test_second_stream_of_a_lease_is_told_to_come_back(run: LiveRun, anna: Volunteer) -> None:
    lease, data = anna.lease(), encoded(run, 0.5)

    def parts() -> Iterator[pb.SubmitRequest]:
        yield pb.SubmitRequest(header=anna.header(lease, data))
        yield pb.SubmitRequest(chunk=data[:10_000])
        while anna.offset(lease.lease_id, data) < 10_000:
            pass
        assert_refused(run, "BUSY", lambda: anna.submit(lease, data, offset=10_000))
        yield pb.SubmitRequest(chunk=data[10_000:])

    receipt = anna.call("Submit", parts())
    assert receipt.images == lease.quota_images


def test_submitting_twice_counts_once(run: LiveRun, anna: Volunteer) -> None:
    lease, data = anna.lease(), encoded(run)
    before = run.status()["contributions"]
    receipt = anna.submit(lease, data)
    assert anna.submit(lease, data) == receipt
    assert run.status()["contributions"] == before + 1
    assert_refused(run, "DUPLICATE", lambda: anna.submit(lease, encoded(run, 0.25)))
    assert anna.beat(lease.lease_id).reason == pb.REFUSAL_DUPLICATE


# -- beside the protocol ----------------------------------------------------------------------------------------------


def test_health_service_says_serving(run: LiveRun) -> None:
    with grpc.insecure_channel(run.grpc_target) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_blobs_are_served_whole_and_in_parts(run: LiveRun, anna: Volunteer) -> None:
    snapshot = anna.lease().catch_up[0]
    path = f"/blobs/{snapshot.sha256}"
    whole = run.get(path)
    assert (whole.status_code, len(whole.content)) == (200, snapshot.size_bytes)
    part = run.get(path, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert run.get(path, Range=f"bytes={snapshot.size_bytes}-").status_code == 416


@pytest.mark.parametrize("name", ["0" * 64, "..%2fledger.sqlite", "%2e%2e", "x"])
def test_nothing_but_blobs_is_served(run: LiveRun, name: str) -> None:
    assert run.get(f"/blobs/{name}").status_code == 404


def test_refusals_are_counted_for_prometheus(run: LiveRun, anna: Volunteer) -> None:
    assert_refused(run, "UNKNOWN_LEASE", lambda: anna.release(10**9))
    assert 'dah_refusals_total{call="release",reason="unknown_lease"}' in run.get("/metrics").text
