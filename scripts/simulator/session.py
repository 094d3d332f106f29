"""One volunteer's key, token and calls: the bare protocol over channels that the fleet shares.

Fails with `Refused`, by the refusal's name, or `Unanswered`. Nothing is retried here but a session that is not known any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

import grpc

from coordinator.blobs import allow_many_files
from diffusion_at_home import PROTOCOL_VERSION, __version__
from diffusion_at_home.identity import Handed, Identity
from diffusion_at_home.kept_weights import KeptWeights, to_wire
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.refusals import MEANINGS, REFUSAL_METADATA, RETRY_AFTER_METADATA, short_name
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.rpc.coordinator_pb2_grpc import CoordinatorStub
from diffusion_at_home.tls import CERTIFICATE_NAME
from simulator.tally import Tally
from worker.trust import Trust

_DEADLINE: Final = timedelta(seconds=30)
_SUBMIT_DEADLINE: Final = timedelta(minutes=10)
_BUSY_RETRY: Final = timedelta(seconds=1)
_NAMES: Final = {pb.Refusal.Name(refusal): short_name(refusal) for refusal in MEANINGS}
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),  # or all channels to one target would be one connection
    # As the worker's own: a restarted coordinator is noticed within seconds.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)


class Refused(Exception):
    """The coordinator said no, with a name."""

    def __init__(self, reason: str, sentence: str, retry_after: timedelta) -> None:
        super().__init__(f"{reason}: {sentence}")
        self.reason = reason
        self.retry_after = retry_after
        """For `busy` and its like."""


class Unanswered(Exception):
    """Nobody answers, or not in time."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Two connections: a heartbeat must not wait behind what is handed in."""

    calls: grpc.aio.Channel
    submits: grpc.aio.Channel


class Lines:
    """The connections of a fleet to one coordinator."""

    def __init__(self, target: str, trust: Trust, *, channels: int) -> None:
        """`target` is host:port; `channels` for calls, and as many for what is handed in."""
        allow_many_files()
        self._pairs = [Channels(_channel(target, trust), _channel(target, trust)) for _ in range(channels)]

    def of(self, number: int) -> Channels:
        """Those of volunteer `number`."""
        return self._pairs[number % len(self._pairs)]

    async def close(self) -> None:
        """Cancel what is under way."""
        for pair in self._pairs:
            await pair.calls.close(None)
            await pair.submits.close(None)


class SimulatedSession:
    """Calls of one volunteer, timed."""

    def __init__(self, *, identity: Identity, run_id: str, channels: Channels, tally: Tally) -> None:
        self.tally = tally
        self.max_chunk_bytes = 0
        self._identity = identity
        self._run_id = run_id
        self._token = ""
        self._signed_at_ms = 0
        self.over(channels)

    def over(self, channels: Channels) -> None:
        """Make the calls over these from now on."""
        self._stub = CoordinatorStub(channels.calls)  # type: ignore[no-untyped-call]  # generated
        self._submit_stub = CoordinatorStub(channels.submits)  # type: ignore[no-untyped-call]  # generated

    @property
    def metadata(self) -> tuple[tuple[str, str]]:
        """What every call but Join carries."""
        return (("authorization", f"Bearer {self._token}"),)

    def join_request(self) -> pb.JoinRequest:
        """The last one, signed."""
        return pb.JoinRequest(
            protocol_version=PROTOCOL_VERSION,
            public_key=self._identity.public_key,
            signed_at_ms=self._signed_at_ms,
            signature=self._identity.sign_join(self._run_id, self._signed_at_ms),
            hardware=pb.Hardware(device="cpu", num_devices=1),
            software_version=__version__,
        )

    async def join(self) -> None:
        """Open a session."""
        self._signed_at_ms = max(self._signed_at_ms + 1, time.time_ns() // 1_000_000)
        request = self.join_request()
        reply: pb.JoinReply = await self._call("join", self._stub.Join(request, timeout=_DEADLINE.total_seconds()))
        self._token, self.max_chunk_bytes = reply.session_token, reply.max_chunk_bytes

    async def lease(self, request: pb.LeaseRequest) -> pb.LeaseReply:
        """Ask for work; a reply is timed only if it came without a wait."""
        deadline = _DEADLINE + timedelta(milliseconds=request.wait_ms)
        reply: pb.LeaseReply = await self._call("lease", self._start(self._stub.Lease, request, deadline))
        return reply

    async def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatReply:
        """Keep a lease alive."""
        reply: pb.HeartbeatReply = await self._call("heartbeat", self._start(self._stub.Heartbeat, request))
        return reply

    async def submit_offset(self, request: pb.SubmitOffsetRequest) -> int:
        """Bytes that have arrived."""
        call = self._start(self._stub.SubmitOffset, request)
        reply: pb.SubmitOffsetReply = await self._call("submit_offset", call)
        return reply.received_bytes

    def sign(self, header: pb.SubmitHeader, grant: pb.LeaseGrant) -> None:
        """See `SubmitHeader.signature`; nothing was rounded of what nobody has trained."""
        header.weights = to_wire(KeptWeights.EXACT)
        handed = Handed(
            self._run_id,
            header.lease_id,
            LeaseTerms.of_grant(grant).sha256,
            KeptWeights.EXACT,
            header.sha256,
            header.images,
        )
        header.signature = self._identity.sign_contribution(handed)

    async def submit(self, parts: AsyncIterator[pb.SubmitRequest]) -> pb.SubmitReply:
        """Hand in."""
        call = self._start(self._submit_stub.Submit, parts, _SUBMIT_DEADLINE)
        reply: pb.SubmitReply = await self._call("submit", call)
        return reply

    async def release(self, request: pb.ReleaseRequest) -> None:
        """Give a lease back."""
        await self._call("release", self._start(self._stub.Release, request))

    def _start(self, method: Any, request: Any, deadline: timedelta = _DEADLINE) -> Any:
        return method(request, timeout=deadline.total_seconds(), metadata=self.metadata)

    async def _call(self, name: str, call: Any) -> Any:
        try:
            with self.tally.timed(name):
                return await call
        except grpc.aio.AioRpcError as error:
            self._fail(name, error)
        except asyncio.CancelledError:
            if is_dying():
                raise
            self.tally.refusals[name, "(broken off)"] += 1
            raise Unanswered(f"{name} was broken off") from None

    def _fail(self, name: str, error: grpc.aio.AioRpcError) -> NoReturn:
        reason = refusal_name(error)
        self.tally.refusals[name, reason or f"({error.code().name.lower()})"] += 1
        if reason:
            raise Refused(reason, error.details() or "", _retry_after(error)) from None
        raise Unanswered(f"{error.code().name}: {error.details()}") from None


def is_dying() -> bool:
    """Whether this task was cancelled; else grpc says so of a stream whose other end has hung up in the middle."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def refusal_name(error: grpc.aio.AioRpcError) -> str:
    """The stable name in an error's trailer, or nothing."""
    return _NAMES.get(_trailing(error, REFUSAL_METADATA), "")


def _retry_after(error: grpc.aio.AioRpcError) -> timedelta:
    text = _trailing(error, RETRY_AFTER_METADATA)
    return timedelta(milliseconds=int(text)) if text.isdigit() else _BUSY_RETRY


def _trailing(error: grpc.aio.AioRpcError, wanted: str) -> str:
    pairs: Any = error.trailing_metadata() or ()  # grpc-stubs does not know that these are pairs
    return next((str(value) for key, value in pairs if key == wanted), "")


def _channel(target: str, trust: Trust) -> grpc.aio.Channel:
    if not trust.secure:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(trust.certificate.encode() or None)
    named = [("grpc.ssl_target_name_override", CERTIFICATE_NAME)] if trust.certificate else []
    return grpc.aio.secure_channel(target, credentials, options=[*_OPTIONS, *named])
