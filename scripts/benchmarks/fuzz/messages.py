"""Messages of the protocol: a lease, its replies and receipts as a worker reads them, joins and headers as a coordinator does."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError, Message
from simulator.mutation import mutate_field

from benchmarks.fuzz.mutation import mutate_bytes
from benchmarks.fuzz.target import Read, Target
from coordinator.admission import Rate
from coordinator.data_pool import DataPool
from coordinator.enrolment import Enrolment
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import Problems
from coordinator.records import Lease, LeaseState
from coordinator.records import LeaseId as LedgerLeaseId
from coordinator.refused import Refused
from coordinator.registry import Registry
from coordinator.screening import Expected, screen_header
from coordinator.standing import Standing
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.clock import ManualClock
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.config.trust import EnrolmentMode, ScreeningSection
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.errors import DahError
from diffusion_at_home.identity import Handed, Identity
from diffusion_at_home.kept_weights import KeptWeights, to_wire
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.receipt import Received
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.signing_key import public_bytes
from diffusion_at_home.wire.layout import Layout, Slot
from diffusion_at_home.wire.vector import size_bounds
from worker.client import CoordinatorClient
from worker.grant import Grant, GrantReader, LeaseId
from worker.lease_keeper import LeaseKeeper
from worker.outbox import Contribution
from worker.receipts import Receipts
from worker.session import Introduction, Session, Untold

_RUN_ID: Final = "tiny-00000000"
_TERMS: Final = LeaseTerms(0, "0" * 64, 7, 1e-3, (ShardRange(epoch=0, shard=0, start=0, count=16),))
_NUM_ELEMENTS: Final = 1_000
_NEVER: Final = threading.Event()
_WORKER_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
_RUN_KEY: Final = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
_SHARDS: Final = tuple(
    ShardEntry(name=f"{n}.tar", sha256=f"{n}" * 64, size_bytes=500, num_samples=100, width=8, height=8)
    for n in range(2)
)


def messages(scratch: Path, config: RunConfig, opened: ExitStack) -> list[Target]:
    """Both sides; the coordinator's ledger is closed with `opened`."""
    desk = _Desk(scratch / "ledger.sqlite")
    opened.callback(desk.close)
    return [*_to_worker(scratch, config), *_to_coordinator(desk)]


def mutate_message(message: Message, rng: random.Random) -> bytes:
    """Its fields, its bytes, or both."""
    for _ in range(rng.choice((0, 1, 1, 2))):
        message = mutate_field(message, rng)
    data = message.SerializeToString()
    return mutate_bytes(data, data[::-1], rng) if rng.random() < 0.4 else data


def _to_worker(scratch: Path, config: RunConfig) -> list[Target]:
    manifest = DataManifest(name="t", source="s", license="CC0-1.0", train=_SHARDS)
    grants = GrantReader(config, manifest, Layout((Slot("weights", (_NUM_ELEMENTS,), 0, _NUM_ELEMENTS),)))
    receipts = Receipts(
        scratch / "receipts.jsonl",
        run_id=_RUN_ID,
        worker_id=Identity(_WORKER_KEY).worker_id,
        public_key=public_bytes(_RUN_KEY).hex(),
    )

    def grant(rng: random.Random) -> Read:
        data = mutate_message(_grant(), rng)
        return lambda: grants.read(pb.LeaseGrant.FromString(data))

    def join_reply(rng: random.Random) -> Read:
        data = mutate_message(_join_reply(), rng)
        return lambda: _open(pb.JoinReply.FromString(data))

    def heartbeat_reply(rng: random.Random) -> Read:
        data = mutate_message(_heartbeat_reply(), rng)
        held = grants.read(_grant())
        return lambda: _beat(held, data)

    def receipt(rng: random.Random) -> Read:
        data = mutate_message(_receipt(), rng)
        return lambda: receipts.keep(receipts.read(_CONTRIBUTION, pb.SubmitReply.FromString(data)))

    refusals = (DahError, DecodeError)
    return [
        Target("grant", 8, grant, refusals),
        Target("join_reply", 3, join_reply, refusals),
        Target("heartbeat_reply", 3, heartbeat_reply, refusals),
        Target("submit_reply", 2, receipt, refusals),
    ]


def _grant() -> pb.LeaseGrant:
    return pb.LeaseGrant(
        lease_id=3,
        round=2,
        base_version=1,
        base_digest="d" * 64,
        catch_up=[
            pb.Blob(kind=pb.Blob.KIND_UPDATE, version=1, sha256="a" * 64, size_bytes=1016, weights_digest="d" * 64)
        ],
        ranges=[pb.ShardRange(shard=1, epoch=4, start=90, count=10), pb.ShardRange(shard=0, epoch=5, count=22)],
        seed=2**63 + 1,
        quota_images=32,
        learning_rate=1e-3,
        codec="int8",
        timeout_ms=1000,
        next_heartbeat_ms=2500,
        closes_in_ms=9000,
        upcoming_shards=["1" * 64, "f" * 64],
    )


def _join_reply() -> pb.JoinReply:
    return pb.JoinReply(
        protocol_version=PROTOCOL_VERSION,
        session_token="t" * 43,
        worker_id="0" * 16,
        spec_sha256="5" * 64,
        spec_bytes=10_000,
        layout_sha256="6" * 64,
        max_chunk_bytes=2**20,
    )


def _heartbeat_reply() -> pb.HeartbeatReply:
    return pb.HeartbeatReply(
        order=pb.HeartbeatReply.ORDER_HAND_IN,
        next_heartbeat_ms=30_000,
        closes_in_ms=9_000,
        latest_version=3,
        reason=pb.REFUSAL_ROUND_CLOSED,
    )


class _Joined:
    """In place of `CoordinatorClient`: whatever was asked, one reply."""

    def __init__(self, reply: pb.JoinReply) -> None:
        self._reply = reply

    def join(self, _request: pb.JoinRequest, _cue: object) -> pb.JoinReply:
        return self._reply


def _open(reply: pb.JoinReply) -> object:
    session = Session(
        client=cast("CoordinatorClient", _Joined(reply)),
        identity=Identity(_WORKER_KEY),
        run_id=_RUN_ID,
        introduction=Introduction("", pb.Hardware()),
        stamp_ms=lambda: 1,
        line=Untold(),
    )
    session.open(_NEVER)
    return session.spec, session.max_chunk_bytes, session.layout_sha256


def _beat(grant: Grant, data: bytes) -> None:
    """Several times, each when it is due: what one reply says must not make the next pause endless."""
    clock = ManualClock()
    keeper = LeaseKeeper(grant, send=lambda *_: pb.HeartbeatReply.FromString(data), clock=clock, lead_seconds=1.0)
    for _ in range(3):
        keeper.do_what_is_due(_NEVER)
        seconds = keeper.seconds_until_due()
        if not 0 <= seconds <= 86_400:
            raise AssertionError(f"a pause of {seconds} s")
        clock.advance(seconds)
    keeper.raise_if_over()


_CONTRIBUTION: Final = Contribution(
    lease_id=LeaseId(3),
    sha256="a" * 64,
    size_bytes=1016,
    images=32,
    train_ms=10,
    mean_loss=0.5,
    lease_sha256="b" * 64,
    weights=KeptWeights.EXACT,
)


def _receipt() -> pb.SubmitReply:
    received = Received(
        run_id=_RUN_ID,
        contribution_id=5,
        worker_id=Identity(_WORKER_KEY).worker_id,
        lease_id=3,
        sha256="a" * 64,
        images=32,
        round=2,
    )
    return pb.SubmitReply(contribution_id=5, images=32, round=2, signature=_RUN_KEY.sign(received.message()))


def _to_coordinator(desk: _Desk) -> list[Target]:
    desk.join(desk.request(1))
    lease = Lease(
        LedgerLeaseId(1),
        desk.identity.worker_id,
        0,
        (ShardRange(epoch=0, shard=0, start=0, count=16),),
        7,
        16,
        1e-3,
        LeaseState.ACTIVE,
        1,
    )
    expected = Expected(Codec.INT8, _NUM_ELEMENTS)

    def join(rng: random.Random) -> Read:
        desk.num_joins += 1
        data = mutate_message(desk.request(1 + desk.num_joins), rng)
        return lambda: desk.join(pb.JoinRequest.FromString(data))

    def header(rng: random.Random) -> Read:
        data = mutate_message(desk.header(), rng)
        return lambda: _check_header(desk, pb.SubmitHeader.FromString(data), lease, expected)

    refusals = (Refused, DecodeError)
    return [Target("join_request", 4, join, refusals), Target("submit_header", 5, header, refusals)]


def _check_header(desk: _Desk, header: pb.SubmitHeader, lease: Lease, expected: Expected) -> None:
    """All that is done before a byte of the contribution is asked for; the signature last, so that the rest is looked at."""
    screen_header(header, lease, expected)
    desk.registry.check_signature(desk.identity.worker_id, header, _TERMS)


class _Desk:
    """A registry over a real ledger, and a worker that knows how to join."""

    def __init__(self, ledger: Path) -> None:
        self.identity = Identity(_WORKER_KEY)
        self.num_joins = 0
        self._loop = asyncio.new_event_loop()
        books = Ledger.create(ledger, run_id=_RUN_ID, spec_sha256="5" * 64, pool=DataPool(DataCursor(0, 0, 0)))
        self._ledger = LedgerThread(books, Problems())
        self.registry = Registry(
            run_id=_RUN_ID,
            ledger=self._ledger,
            workers=[],
            joins=Rate(1e9, ManualClock(), random.Random(0)),  # noqa: S311
            standing=Standing(ScreeningSection(), {}),
            enrolment=Enrolment(EnrolmentMode.OPEN),
        )

    def close(self) -> None:
        self._ledger.close()
        self._loop.close()

    def join(self, request: pb.JoinRequest) -> object:
        worker, token = self._loop.run_until_complete(self.registry.join(request))
        return worker, self.registry.authenticate({"authorization": f"Bearer {token}"})

    def request(self, signed_at_ms: int) -> pb.JoinRequest:
        return pb.JoinRequest(
            protocol_version=PROTOCOL_VERSION,
            public_key=self.identity.public_key,
            signed_at_ms=signed_at_ms,
            signature=self.identity.sign_join(_RUN_ID, signed_at_ms),
            display_name="Anna",
            hardware=pb.Hardware(device="cpu", device_name="a processor", num_devices=1, memory_bytes=2**34),
            software_version="0.1.0",
        )

    def header(self) -> pb.SubmitHeader:
        handed = Handed(_RUN_ID, 1, _TERMS.sha256, KeptWeights.EXACT, "a" * 64, 16)
        return pb.SubmitHeader(
            protocol_version=PROTOCOL_VERSION,
            lease_id=1,
            sha256="a" * 64,
            size_bytes=size_bounds(Codec.INT8, _NUM_ELEMENTS)[0],
            images=16,
            train_ms=1,
            mean_loss=0.5,
            signature=self.identity.sign_contribution(handed),
            weights=to_wire(KeptWeights.EXACT),
        )
