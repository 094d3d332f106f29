"""The worker protocol as plain calls: the one file of the worker that knows gRPC.

Every call has a deadline and fails only with an exception of `diffusion_at_home.errors`, as `refusals.MEANINGS` says;
what carries no refusal is `Unreachable`. Nothing is retried here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diffusion_at_home.errors import Busy, DahError, LeaseLost, RetryCall, Unreachable
from diffusion_at_home.refusals import MEANINGS, REFUSAL_METADATA, RETRY_AFTER_METADATA, short_name
from diffusion_at_home.rpc.coordinator_pb2 import (
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaseReply,
    LeaseRequest,
    Refusal,
    ReleaseRequest,
    SubmitOffsetReply,
    SubmitOffsetRequest,
    SubmitReply,
    SubmitRequest,
)
from diffusion_at_home.rpc.coordinator_pb2_grpc import CoordinatorStub
from diffusion_at_home.tls import CERTIFICATE_NAME
from worker.proxy import proxy_for
from worker.stop import Interrupted
from worker.told import told
from worker.trust import Trust

_DEADLINE: Final = timedelta(seconds=30)
"""For a call that has nothing to wait for."""

_RELEASE_DEADLINE: Final = timedelta(seconds=2)
"""A lease that is not given back runs out by itself, and whoever releases may be about to leave."""

_DEFAULT_RETRY: Final = timedelta(seconds=5)
_LONGEST_RETRY: Final = timedelta(hours=1)
_POLL: Final = timedelta(seconds=0.25)
"""How soon an interruptible call notices; a reply is noticed at once."""

_NEVER: Final = threading.Event()

_OPTIONS: Final = (
    ("grpc.max_send_message_length", 8 * 2**20),
    ("grpc.max_receive_message_length", 8 * 2**20),
    # A home router forgets silent connections, and while a lease is trained there is nothing but a heartbeat now and
    # then; a dead connection is noticed within 40 s instead of at the deadline. The coordinator allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # DNS is asked anew whenever a connection fails, for a coordinator may have moved.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # The channel's own backoff would hide a restarted coordinator for up to two minutes; ours is `Patience`.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)

_OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)
"""Or two channels to one target would be one connection."""

_BY_NAME: Final = {Refusal.Name(refusal): refusal for refusal in MEANINGS}


class Cue(Protocol):
    """Says when a call is to be left; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to leave."""


class _Way:
    """The two connections to one place."""

    def __init__(self, target: str, trust: Trust) -> None:
        self.target = target
        self.trust = trust
        self.channel = _channel(target, trust)
        self.stub = CoordinatorStub(self.channel)  # type: ignore[no-untyped-call]  # generated code
        self.submit_channel = _channel(target, trust)
        self.submit_stub = CoordinatorStub(self.submit_channel)  # type: ignore[no-untyped-call]  # generated code

    def close(self) -> None:
        self.channel.close()
        self.submit_channel.close()


class CoordinatorClient:
    """Calls of one coordinator; may be made from any thread.

    What is handed in has a connection of its own: a heartbeat must not wait behind megabytes that a slow line has yet to carry.
    """

    def __init__(self, target: str, trust: Trust) -> None:
        """`target` is host:port."""
        self._way = _Way(target, trust)

    def close(self) -> None:
        """Cancel what is under way."""
        self._way.close()

    def point_at(self, target: str, trust: Trust) -> None:
        """Call another place from now on; what is under way at the old one fails as `Unreachable`."""
        old = self._way
        if (old.target, old.trust) != (target, trust):
            self._way = _Way(target, trust)
            old.close()

    def join(self, request: JoinRequest, cue: Cue) -> JoinReply:
        """Open a session, the only call without a token; `Interrupted` when `cue` is set meanwhile."""
        way = self._way
        reply: JoinReply = self._call(way, way.stub.Join, request, _Terms(None, _DEADLINE, cue))
        return reply

    def lease(self, request: LeaseRequest, token: str, cue: Cue) -> LeaseReply:
        """Ask for work, waiting as long as the request says; `Interrupted` when `cue` is set meanwhile."""
        way, deadline = self._way, _DEADLINE + timedelta(milliseconds=request.wait_ms)
        reply: LeaseReply = self._call(way, way.stub.Lease, request, _Terms(token, deadline, cue))
        return reply

    def heartbeat(self, request: HeartbeatRequest, token: str, cue: Cue) -> HeartbeatReply:
        """Keep a lease alive; `Interrupted` when `cue` is set meanwhile."""
        way = self._way
        reply: HeartbeatReply = self._call(way, way.stub.Heartbeat, request, _Terms(token, _DEADLINE, cue))
        return reply

    def submit_offset(self, request: SubmitOffsetRequest, token: str, cue: Cue = _NEVER) -> int:
        """Bytes of a contribution that have arrived; `Interrupted` when `cue` is set meanwhile."""
        way = self._way
        reply: SubmitOffsetReply = self._call(way, way.stub.SubmitOffset, request, _Terms(token, _DEADLINE, cue))
        return reply.received_bytes

    def submit(self, parts: Iterator[SubmitRequest], token: str, deadline: timedelta, cue: Cue = _NEVER) -> SubmitReply:
        """Hand in a contribution; returns the receipt. `Interrupted` when `cue` is set meanwhile."""
        way = self._way
        reply: SubmitReply = self._call(way, way.submit_stub.Submit, parts, _Terms(token, deadline, cue))
        return reply

    def release(self, request: ReleaseRequest, token: str) -> None:
        """Give a lease back."""
        way = self._way
        self._call(way, way.stub.Release, request, _Terms(token, _RELEASE_DEADLINE, _NEVER))

    def is_serving(self, deadline: timedelta) -> bool:
        """Whether the coordinator's own health check says that it serves; needs no session."""
        way = self._way
        check = health_pb2_grpc.HealthStub(way.channel).Check
        reply = self._call(way, check, health_pb2.HealthCheckRequest(), _Terms(None, deadline, _NEVER))
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    @staticmethod
    def _call(way: _Way, method: Any, request: Any, terms: _Terms) -> Any:
        metadata = () if terms.token is None else (("authorization", f"Bearer {terms.token}"),)
        # Not `result(timeout)`: grpc counts that by the wall clock, which may jump.
        done = threading.Event()
        try:
            call = method.future(request, timeout=terms.deadline.total_seconds(), metadata=metadata)
            call.add_done_callback(lambda _: done.set())
            while not done.wait(_POLL.total_seconds()):
                if terms.cue.is_set():
                    call.cancel()
                    raise Interrupted
            return call.result()
        except grpc.RpcError as error:
            raise _consequence(error, way.target) from None
        except (grpc.FutureCancelledError, ValueError):  # the channel was closed under it
            raise Unreachable(f"the call of {way.target} was broken off") from None


@dataclass(frozen=True, slots=True)
class _Terms:
    """Of one call."""

    token: str | None
    deadline: timedelta
    cue: Cue


def _channel(target: str, trust: Trust) -> grpc.Channel:
    proxy = proxy_for(f"{'https' if trust.secure else 'http'}://{target}")
    # Told rather than left to grpc, which knows the variables in small letters only.
    through: tuple[str, str | int] = ("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy)
    options = [*_OPTIONS, _OWN_CONNECTION, through]
    if not trust.secure:
        return grpc.insecure_channel(target, options=options)
    if not trust.certificate:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    # Its own authority, for the name that all of them have: the pin has told whose it is.
    credentials = grpc.ssl_channel_credentials(trust.certificate.encode())
    named = ("grpc.ssl_target_name_override", CERTIFICATE_NAME)
    return grpc.secure_channel(target, credentials, options=[*options, named])


def _consequence(error: Any, target: str) -> DahError:
    """What a failed call means for the worker."""
    trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
    sentence = told(error.details() or "") or "the coordinator gives no reason"
    refusal = _BY_NAME.get(trailing.get(REFUSAL_METADATA, ""))
    if refusal is not None:
        kind = MEANINGS[refusal].consequence
        if issubclass(kind, LeaseLost):
            return kind(sentence, short_name(refusal))
        if issubclass(kind, Busy):
            return kind(sentence, _retry_after(trailing))
        return kind(sentence)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(f"nobody answers at {target}")
    if error.code() is grpc.StatusCode.CANCELLED:
        return Unreachable(f"the call of {target} was broken off")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable(f"{target} does not answer in time")
    return RetryCall(f"{target} failed with {error.code().name}: {sentence}")


def _retry_after(trailing: dict[str, str]) -> timedelta:
    text = trailing.get(RETRY_AFTER_METADATA, "")
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        return _DEFAULT_RETRY
    return min(timedelta(milliseconds=int(text)), _LONGEST_RETRY)
