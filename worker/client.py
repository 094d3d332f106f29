"""The worker protocol as plain calls: the one file of the worker that knows gRPC.

Every call has a deadline and fails only with an exception of `diffusion_at_home.errors`, as `refusals.MEANINGS` says;
what carries no refusal is `Unreachable`. Nothing is retried here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

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
from worker.stop import Interrupted

_DEADLINE: Final = timedelta(seconds=30)
"""For a call that has nothing to wait for."""

_RELEASE_DEADLINE: Final = timedelta(seconds=5)
"""A lease that is not given back runs out by itself, and whoever releases may be about to leave."""

_DEFAULT_RETRY: Final = timedelta(seconds=5)
_LONGEST_RETRY: Final = timedelta(hours=1)
_POLL: Final = timedelta(seconds=0.25)
"""How soon an interruptible call notices; a reply is noticed at once."""

_OPTIONS: Final = (
    ("grpc.max_send_message_length", 8 * 2**20),
    ("grpc.max_receive_message_length", 8 * 2**20),
    # A home router forgets silent connections; a dead one is noticed within 40 s instead of at the deadline.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The channel's own backoff would hide a restarted coordinator for up to two minutes; ours is `Patience`.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)

_OWN_CONNECTION: Final = ("grpc.use_local_subchannel_pool", 1)
"""Or two channels to one target would be one connection."""

_BY_NAME: Final = {Refusal.Name(refusal): refusal for refusal in MEANINGS}


class CoordinatorClient:
    """Calls of one coordinator; may be made from any thread.

    What is handed in has a connection of its own: a heartbeat must not wait behind megabytes that a slow line has yet to carry.
    """

    def __init__(self, target: str, *, secure: bool) -> None:
        """`target` is host:port."""
        self._target = target
        self._channel = _channel(target, secure=secure)
        self._stub = CoordinatorStub(self._channel)  # type: ignore[no-untyped-call]  # generated code
        self._submit_channel = _channel(target, secure=secure)
        self._submit_stub = CoordinatorStub(self._submit_channel)  # type: ignore[no-untyped-call]  # generated code

    def close(self) -> None:
        """Cancel what is under way."""
        self._channel.close()
        self._submit_channel.close()

    def join(self, request: JoinRequest, interrupt: threading.Event) -> JoinReply:
        """Open a session, the only call without a token; `Interrupted` when `interrupt` is set meanwhile."""
        reply: JoinReply = self._finish(self._stub.Join.future(request, timeout=_DEADLINE.total_seconds()), interrupt)
        return reply

    def lease(self, request: LeaseRequest, token: str, interrupt: threading.Event) -> LeaseReply:
        """Ask for work, waiting as long as the request says; `Interrupted` when `interrupt` is set meanwhile."""
        deadline = _DEADLINE + timedelta(milliseconds=request.wait_ms)
        call = self._start(self._stub.Lease, request, token, deadline)
        reply: LeaseReply = self._finish(call, interrupt)
        return reply

    def heartbeat(self, request: HeartbeatRequest, token: str, interrupt: threading.Event) -> HeartbeatReply:
        """Keep a lease alive; `Interrupted` when `interrupt` is set meanwhile."""
        reply: HeartbeatReply = self._finish(self._start(self._stub.Heartbeat, request, token, _DEADLINE), interrupt)
        return reply

    def submit_offset(self, request: SubmitOffsetRequest, token: str) -> int:
        """Bytes of a contribution that have arrived."""
        reply: SubmitOffsetReply = self._finish(self._start(self._stub.SubmitOffset, request, token, _DEADLINE))
        return reply.received_bytes

    def submit(self, parts: Iterator[SubmitRequest], token: str, deadline: timedelta) -> SubmitReply:
        """Hand in a contribution; returns the receipt."""
        reply: SubmitReply = self._finish(self._start(self._submit_stub.Submit, parts, token, deadline))
        return reply

    def release(self, request: ReleaseRequest, token: str) -> None:
        """Give a lease back."""
        self._finish(self._start(self._stub.Release, request, token, _RELEASE_DEADLINE))

    def is_serving(self, deadline: timedelta) -> bool:
        """Whether the coordinator's own health check says that it serves; needs no session."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        call = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=deadline.total_seconds())
        reply = self._finish(call)
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def _start(self, method: Any, request: Any, token: str, deadline: timedelta) -> Any:
        metadata = (("authorization", f"Bearer {token}"),)
        return method.future(request, timeout=deadline.total_seconds(), metadata=metadata)

    def _finish(self, call: Any, interrupt: threading.Event | None = None) -> Any:
        try:
            if interrupt is None:
                return call.result()
            while not interrupt.is_set():
                try:
                    return call.result(timeout=_POLL.total_seconds())
                except grpc.FutureTimeoutError:
                    continue
        except grpc.RpcError as error:
            raise _consequence(error, self._target) from None
        call.cancel()
        raise Interrupted


def _channel(target: str, *, secure: bool) -> grpc.Channel:
    options = [*_OPTIONS, _OWN_CONNECTION]
    if secure:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
    return grpc.insecure_channel(target, options=options)


def _consequence(error: Any, target: str) -> DahError:
    """What a failed call means for the worker."""
    trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
    sentence = error.details() or "the coordinator gives no reason"
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
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable(f"{target} does not answer in time")
    return RetryCall(f"{target} failed with {error.code().name}: {sentence}")


def _retry_after(trailing: dict[str, str]) -> timedelta:
    text = trailing.get(RETRY_AFTER_METADATA, "")
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        return _DEFAULT_RETRY
    return min(timedelta(milliseconds=int(text)), _LONGEST_RETRY)
