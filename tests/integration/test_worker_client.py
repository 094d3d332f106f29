"""The worker's calls against a real gRPC server on loopback whose answers are scripted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.audit.residual import LEAF_ELEMENTS, Commitment, Terms, check_shown, leaf_of
from diffusion_at_home.audit.shown import read_leaf
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.errors import (
    Busy,
    ConfigError,
    LeaseLost,
    NotAdmitted,
    RetryCall,
    RunChanged,
    Unreachable,
    VersionMismatch,
)
from diffusion_at_home.identity import Identity
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.receipt import Receipt, Received, read_receipts
from diffusion_at_home.refusals import MEANINGS, short_name
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.signing_key import public_bytes
from diffusion_at_home.wire.layout import Layout, Slot
from diffusion_at_home.wire.vector import VectorReader
from tests.integration.scripted_coordinator import RUN_ID, RUN_KEY, Place, RunPage, Scripted, serving, serving_page
from tests.unit.tiny_run import no_limit, no_residual
from worker.backoff import Backoff
from worker.client import CoordinatorClient
from worker.grant import LeaseId
from worker.join_stamp import JoinStamp
from worker.joining import join_run, workplace
from worker.outbox import Outbox
from worker.patience import Patience
from worker.receipts import Receipts
from worker.residual import Residual
from worker.sender import Sender
from worker.session import Introduction, Session, Untold
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder
from worker.stop import Interrupted, StopSignal
from worker.trainer import Trained
from worker.trust import Trust


@pytest.fixture
def place() -> Iterator[Place]:
    with serving(Scripted()) as place:
        yield place


@pytest.fixture
def client(place: Place) -> Iterator[CoordinatorClient]:
    client = CoordinatorClient(place.target, Trust(secure=False))
    yield client
    client.close()


@pytest.fixture
def session(client: CoordinatorClient, tmp_path: Path) -> Session:
    identity = Identity.load_or_create(tmp_path / "identity.key")
    session = Session(
        client=client,
        identity=identity,
        run_id=RUN_ID,
        introduction=Introduction("", pb.Hardware(device="cpu")),
        stamp_ms=JoinStamp(tmp_path / "last_join").next_ms,
        line=Untold(),
    )
    session.open(threading.Event())
    return session


def not_busy(why: str, seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s: {why}")


@contextmanager
def no_wait(_: RetryCall) -> Iterator[None]:
    yield


@pytest.mark.parametrize("refusal", MEANINGS, ids=short_name)
def test_every_refusal_has_its_consequence(place: Place, client: CoordinatorClient, refusal: pb.Refusal) -> None:
    place.coordinator.refusal = refusal
    with pytest.raises(MEANINGS[refusal].consequence, match="a sentence for people") as raised:
        client.submit_offset(pb.SubmitOffsetRequest(lease_id=1), "first")
    assert type(raised.value) is MEANINGS[refusal].consequence
    if isinstance(raised.value, LeaseLost):
        assert raised.value.reason == short_name(refusal)


@pytest.mark.parametrize(("sent", "seconds"), [("1500", 1.5), ("", 5), ("-1", 5), ("99999999999", 3600)])
def test_busy_says_when_to_come_back_within_reason(
    place: Place, client: CoordinatorClient, sent: str, seconds: float
) -> None:
    place.coordinator.refusal, place.coordinator.retry_after_ms = pb.Refusal.REFUSAL_STORAGE_FULL, sent
    with pytest.raises(Busy) as raised:
        client.submit_offset(pb.SubmitOffsetRequest(lease_id=1), "first")
    assert raised.value.retry_after == timedelta(seconds=seconds)


def test_nobody_there_is_unreachable() -> None:
    client = CoordinatorClient("127.0.0.1:9", Trust(secure=False))
    with pytest.raises(Unreachable, match=r"nobody answers at 127\.0\.0\.1:9$"):
        client.join(pb.JoinRequest(), threading.Event())
    client.close()


def test_a_waiting_lease_call_is_interrupted(place: Place, session: Session) -> None:
    interrupt = threading.Event()
    asking = threading.Thread(target=lambda: (place.coordinator.lease_called.wait(), interrupt.set()))
    asking.start()
    with pytest.raises(Interrupted):
        session.lease(pb.LeaseRequest(wait_ms=60_000), interrupt)
    asking.join()


def test_a_forgotten_session_is_joined_again_and_the_call_repeated(place: Place, session: Session) -> None:
    place.coordinator.token = "second"
    reply = session.heartbeat(pb.HeartbeatRequest(), threading.Event())
    assert reply.order == pb.HeartbeatReply.ORDER_CONTINUE
    assert place.coordinator.num_joins == 2


@pytest.mark.parametrize(
    "lies",
    [
        {"session_token": ""},
        {"session_token": "x" * 129},
        {"spec_sha256": "x"},
        {"spec_bytes": 0},
        {"max_chunk_bytes": 0},
    ],
)
def test_join_reply_out_of_bounds_is_tried_again(place: Place, session: Session, lies: dict[str, object]) -> None:
    place.coordinator.join_lies = lies
    with pytest.raises(RetryCall, match="out of bounds"):
        session.open(threading.Event())


def test_join_reply_of_another_version_is_a_mismatch(place: Place, session: Session) -> None:
    place.coordinator.join_lies = {"protocol_version": PROTOCOL_VERSION + 1}
    with pytest.raises(VersionMismatch):
        session.open(threading.Event())


def test_run_that_is_another_one_behind_a_forgotten_session_is_opened_anew(place: Place, session: Session) -> None:
    place.coordinator.token, place.coordinator.join_lies = "second", {"spec_sha256": "2" * 64}
    with pytest.raises(RunChanged):
        session.heartbeat(pb.HeartbeatRequest(), threading.Event())


def test_who_was_admitted_once_is_never_dismissed_by_a_refusal_to_join_again(place: Place, session: Session) -> None:
    place.coordinator.token, place.coordinator.join_refusal = "second", pb.Refusal.REFUSAL_BAD_SIGNATURE
    with pytest.raises(RetryCall, match="does not admit us again: a sentence for people"):
        session.heartbeat(pb.HeartbeatRequest(), threading.Event())
    with pytest.raises(RetryCall):
        session.reopen(threading.Event())
    with pytest.raises(NotAdmitted):
        session.open(threading.Event())


def test_call_that_was_garbled_on_its_way_costs_the_lease_and_not_the_run(place: Place, session: Session) -> None:
    place.coordinator.refusal = pb.Refusal.REFUSAL_MALFORMED
    with pytest.raises(LeaseLost) as lost:
        session.heartbeat(pb.HeartbeatRequest(), threading.Event())
    assert lost.value.reason == "malformed"


def test_client_that_is_pointed_elsewhere_calls_there(
    place: Place, client: CoordinatorClient, session: Session
) -> None:
    with serving(Scripted()) as other:
        other.coordinator.token = "second"
        client.point_at(other.target, Trust(secure=False))
        session.heartbeat(pb.HeartbeatRequest(), threading.Event())
        assert (place.coordinator.num_joins, other.coordinator.num_joins) == (1, 1)
        client.point_at(place.target, Trust(secure=False))


def test_call_under_way_is_left_when_the_client_is_pointed_elsewhere(place: Place, client: CoordinatorClient) -> None:
    def move() -> None:
        place.coordinator.lease_called.wait()
        client.point_at("127.0.0.1:9", Trust(secure=False))

    moving = threading.Thread(target=move)
    moving.start()
    with pytest.raises(Unreachable, match="was broken off"):
        client.lease(pb.LeaseRequest(wait_ms=60_000), "first", threading.Event())
    moving.join()


def sender_of(session: Session, outbox: Outbox, root: Path, patience: Patience) -> Sender:
    """Keeps receipts in `root`."""
    receipts = Receipts(
        root / "receipts.jsonl", run_id=RUN_ID, worker_id=session.worker_id, public_key=public_bytes(RUN_KEY).hex()
    )
    return Sender(
        session=session, outbox=outbox, receipts=receipts, patience=patience, clock=SystemClock(), pacer=no_limit()
    )


@pytest.mark.parametrize("receipt", [pb.SubmitReply(), pb.SubmitReply(contribution_id=1, images=65, round=3)])
def test_receipt_that_cannot_be_is_none(
    place: Place, session: Session, tmp_path: Path, receipt: pb.SubmitReply
) -> None:
    outbox = Outbox(tmp_path / "outbox", no_residual())
    contribution = outbox.put(
        LeaseId(5), "0" * 64, Trained(torch.zeros(10), 64, 1.5, 0.25, KeptWeights.EXACT), Codec.INT8
    )
    place.coordinator.receipt, stop = receipt, StopSignal()

    @contextmanager
    def give_up(why: RetryCall) -> Iterator[None]:
        assert "receipt is out of bounds" in str(why)
        stop.request()
        yield

    patience = Patience(Backoff(60, 60), give_up)
    sender = sender_of(session, outbox, tmp_path, patience)
    with pytest.raises(Interrupted):
        sender.send(contribution, stop)
    assert outbox.recover() == [contribution]


@pytest.mark.parametrize(
    ("leaves", "sentence"),
    [
        ([0], "asks for other parts of a residual than it did just now"),
        ([0, 2**40], "parts that no residual of this run has"),
        (list(range(17)), "asks for more than 16 leaves"),
    ],
)
def test_a_coordinator_that_asks_for_too_much_of_a_residual_gets_little(
    place: Place, session: Session, tmp_path: Path, leaves: list[int], sentence: str
) -> None:
    layout = Layout((Slot("weight", (100,), 0, 100),))
    residual = Residual(tmp_path / "residual", CodecSection(delta=Codec.SPARSE, feedback=0.5), layout)
    outbox = Outbox(tmp_path / "outbox", residual)
    contribution = outbox.put(
        LeaseId(5), "0" * 64, Trained(torch.randn(100), 64, 1.5, 0.25, KeptWeights.EXACT), Codec.SPARSE
    )
    place.coordinator.receipt, stop = pb.SubmitReply(challenge=pb.ResidualChallenge(leaves=leaves)), StopSignal()

    @contextmanager
    def give_up(why: RetryCall) -> Iterator[None]:
        assert sentence in str(why)
        stop.request()
        yield

    with pytest.raises(Interrupted):
        sender_of(session, outbox, tmp_path, Patience(Backoff(60, 60), give_up)).send(contribution, stop)
    assert outbox.recover() == [contribution]


def test_a_worker_shows_what_it_added_to_a_delta_and_what_was_left_out_of_it(
    place: Place, session: Session, tmp_path: Path
) -> None:
    size, feedback, asked = 3 * LEAF_ELEMENTS + 100, 0.5, [1, 3]
    codec = CodecSection(delta=Codec.SPARSE, feedback=feedback)
    layout = Layout((Slot("weight", (size,), 0, size),))
    outbox = Outbox(tmp_path / "outbox", Residual(tmp_path / "residual", codec, layout))
    sender = sender_of(session, outbox, tmp_path, Patience(Backoff(1, 1), no_wait))
    coordinator = place.coordinator
    coordinator.challenge = asked
    for lease, delta in [(5, torch.randn(size)), (6, torch.randn(size))]:
        coordinator.arrived, coordinator.shown, coordinator.headers = bytearray(), [], []
        trained = Trained(delta.clone(), 64, 1.5, 0.25, KeptWeights.EXACT)
        sender.send(outbox.put(LeaseId(lease), "0" * 64, trained, codec.delta), StopSignal())
        first, second = coordinator.headers
        roots = Commitment(second.residual_before, second.residual_after)
        assert (first.residual_after, second.offset, second.signature) == (
            roots.after,
            second.size_bytes,
            first.signature,
        )
        sent = VectorReader(memoryview(coordinator.arrived), codec.delta, size)
        terms = Terms(size, codec.delta, feedback, roots)
        shown = [read_leaf(leaf) for leaf in coordinator.shown]
        for index, implied in zip(asked, check_shown(shown, asked, sent, terms), strict=True):
            torch.testing.assert_close(implied, leaf_of(delta, index))
        assert bool(roots.before) == (lease == 6)  # what the first one left out
    assert outbox.recover() == []


def test_a_cut_submit_resumes_where_the_coordinator_has_it(place: Place, session: Session, tmp_path: Path) -> None:
    coordinator = place.coordinator
    coordinator.cut_after_bytes = 2500
    outbox = Outbox(tmp_path / "outbox", no_residual())
    contribution = outbox.put(
        LeaseId(5), "0" * 64, Trained(torch.randn(2000), 64, 1.5, 0.25, KeptWeights.EXACT), Codec.FP32
    )
    encoded = outbox.vector(contribution).read_bytes()
    sender = sender_of(session, outbox, tmp_path, Patience(Backoff(1, 1), no_wait))
    receipt = sender.send(contribution, StopSignal()).receipt.received
    assert (receipt.images, receipt.round) == (64, 3)
    assert coordinator.offsets == [0, 3000]
    assert coordinator.arrived == encoded
    assert outbox.recover() == []
    (line,) = read_receipts(tmp_path / "receipts.jsonl", public_bytes(RUN_KEY).hex())
    assert (line.receipt, line.problem) == (Receipt(received=receipt, **signed(receipt)), "")


def signed(received: Received) -> dict[str, str]:
    return {"public_key": public_bytes(RUN_KEY).hex(), "signature": RUN_KEY.sign(received.message()).hex()}


def test_receipt_that_the_run_has_not_signed_is_none(place: Place, session: Session, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", no_residual())
    contribution = outbox.put(
        LeaseId(5), "0" * 64, Trained(torch.zeros(10), 64, 1.5, 0.25, KeptWeights.EXACT), Codec.INT8
    )
    stop = StopSignal()
    place.coordinator.forges = True

    @contextmanager
    def give_up(why: RetryCall) -> Iterator[None]:
        assert str(why) == "the coordinator's receipt is not signed by the run's key"
        stop.request()
        yield

    with pytest.raises(Interrupted):
        sender_of(session, outbox, tmp_path, Patience(Backoff(60, 60), give_up)).send(contribution, stop)
    assert outbox.recover() == [contribution]
    assert not (tmp_path / "receipts.jsonl").exists()


def test_a_refused_contribution_leaves_the_outbox(place: Place, session: Session, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", no_residual())
    contribution = outbox.put(
        LeaseId(5), "0" * 64, Trained(torch.zeros(10), 64, 1.5, 0.25, KeptWeights.EXACT), Codec.INT8
    )
    place.coordinator.refusal = pb.Refusal.REFUSAL_ROUND_CLOSED
    sender = sender_of(session, outbox, tmp_path, Patience(Backoff(1, 1), no_wait))
    with pytest.raises(LeaseLost):
        sender.send(contribution, StopSignal())
    assert outbox.recover() == []


def test_what_could_not_be_sent_before_the_stop_stays_in_the_outbox(
    place: Place, session: Session, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "outbox", no_residual())
    contribution = outbox.put(
        LeaseId(5), "0" * 64, Trained(torch.zeros(10), 64, 1.5, 0.25, KeptWeights.EXACT), Codec.INT8
    )
    stop = StopSignal()
    stop.request()
    place.server.stop(None).wait()
    sender = sender_of(session, outbox, tmp_path, Patience(Backoff(1, 1), no_wait))
    with pytest.raises(Interrupted):
        sender.send(contribution, stop)
    assert outbox.recover() == [contribution]


@pytest.fixture
def run_page(place: Place) -> Iterator[RunPage]:
    info = {"run_id": RUN_ID, "run": "digits", "protocol_version": PROTOCOL_VERSION}
    with serving_page(info | {"grpc_port": place.port, "spec_sha256": "0" * 64}) as page:
        yield page


def test_joining_remembers_the_run(run_page: RunPage, tmp_path: Path) -> None:
    joined = join_run(
        WorkerSettings(state_dir=tmp_path), [run_page.url + "/"], lambda: pb.Hardware(device="cpu"), not_busy
    )
    assert (joined.run_id, joined.url) == (RUN_ID, run_page.url)
    assert StateFolder(tmp_path).joined_runs() == [joined]


def test_another_protocol_version_is_refused_before_a_session_is_opened(
    place: Place, run_page: RunPage, tmp_path: Path
) -> None:
    run_page.info |= {"protocol_version": PROTOCOL_VERSION + 1, "something_new": True}
    with pytest.raises(VersionMismatch, match="upgrade this software") as raised:
        join_run(WorkerSettings(state_dir=tmp_path), [run_page.url], lambda: pb.Hardware(device="cpu"), not_busy)
    assert raised.value.exit_code == 6
    assert place.coordinator.num_joins == 0


def test_an_address_where_nobody_listens_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"nobody answers at http://127\.0\.0\.1:9: check the address") as raised:
        join_run(
            WorkerSettings(state_dir=tmp_path), ["http://127.0.0.1:9"], lambda: pb.Hardware(device="cpu"), not_busy
        )
    assert raised.value.exit_code == 5


def test_joining_a_busy_run_waits_and_says_so(run_page: RunPage, place: Place, tmp_path: Path) -> None:
    place.coordinator.join_refusal, place.coordinator.retry_after_ms = pb.Refusal.REFUSAL_BUSY, "20"
    said: list[str] = []

    def on_busy(why: str, seconds: float) -> None:
        assert 0.02 <= seconds <= 0.03
        said.append(why)
        place.coordinator.join_refusal = None

    settings = WorkerSettings(state_dir=tmp_path)
    join_run(settings, [run_page.url], lambda: pb.Hardware(device="cpu"), on_busy)
    assert said == ["a sentence for people"]


def test_joining_takes_the_address_that_answers_and_remembers_all(run_page: RunPage, tmp_path: Path) -> None:
    dead, settings = "http://127.0.0.1:9", WorkerSettings(state_dir=tmp_path)
    joined = join_run(settings, [dead, run_page.url, dead], lambda: pb.Hardware(device="cpu"), not_busy)
    assert (joined.url, joined.others) == (run_page.url, (dead,))
    place = workplace(StateFolder(tmp_path), ())
    assert [address.url for address in place.addresses] == [run_page.url, dead]
    assert (place.run_id, place.known) == (RUN_ID, True)
    assert workplace(StateFolder(tmp_path), [dead]).known
    assert not workplace(StateFolder(tmp_path), ["http://127.0.0.1:10"]).known


def test_a_page_that_is_no_run_is_refused(run_page: RunPage, tmp_path: Path) -> None:
    run_page.info.clear()
    with pytest.raises(ConfigError, match="serves no run"):
        join_run(WorkerSettings(state_dir=tmp_path), [run_page.url], lambda: pb.Hardware(device="cpu"), not_busy)
