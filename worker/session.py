"""A worker's standing with one coordinator: who it is, the token of the moment, and the calls made with it.

A coordinator that has forgotten the token is joined again, with the same key and thus the same standing, and the call
is repeated: callers never see a `SessionLost`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final, TypeVar

from diffusion_at_home import PROTOCOL_VERSION, __version__
from diffusion_at_home.errors import LeaveRun, SessionLost, Unreachable, VersionMismatch
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc.coordinator_pb2 import (
    Hardware,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaseReply,
    LeaseRequest,
    ReleaseRequest,
    SubmitOffsetRequest,
    SubmitReply,
    SubmitRequest,
)
from diffusion_at_home.runspec import MAX_SPEC_BYTES
from worker.blobs import BlobRef
from worker.client import CoordinatorClient

_MAX_CHUNK_BYTES: Final = 4 * 2**20
"""Larger chunks gain nothing; a coordinator that allows more gets these."""

ResultT = TypeVar("ResultT")


class Session:
    """Calls as one worker of one run; may be used from any thread once open."""

    def __init__(
        self, *, client: CoordinatorClient, identity: Identity, run_id: str, display_name: str, hardware: Hardware
    ) -> None:
        self._client = client
        self._identity = identity
        self._run_id = run_id
        self._display_name = display_name
        self._hardware = hardware
        self._lock = threading.Lock()
        self._joined: JoinReply | None = None

    def open(self, interrupt: threading.Event) -> JoinReply:
        """Join; one try. Raises `RetryCall`, `LeaveRun`, and `Interrupted` when `interrupt` is set meanwhile."""
        with self._lock:
            return self._join(interrupt)

    @property
    def spec(self) -> BlobRef:
        """The blob of the run's specification."""
        return BlobRef(self._reply.spec_sha256, self._reply.spec_bytes)

    @property
    def layout_sha256(self) -> str:
        """Digest (hex) of the layout that the coordinator's model has."""
        return self._reply.layout_sha256

    @property
    def max_chunk_bytes(self) -> int:
        """Largest part of a contribution that is sent at once."""
        return min(self._reply.max_chunk_bytes, _MAX_CHUNK_BYTES)

    def lease(self, request: LeaseRequest, interrupt: threading.Event) -> LeaseReply:
        """See `CoordinatorClient.lease`."""
        return self._authorized(lambda token: self._client.lease(request, token, interrupt))

    def heartbeat(self, request: HeartbeatRequest, interrupt: threading.Event) -> HeartbeatReply:
        """See `CoordinatorClient.heartbeat`."""
        return self._authorized(lambda token: self._client.heartbeat(request, token, interrupt))

    def submit_offset(self, request: SubmitOffsetRequest) -> int:
        """See `CoordinatorClient.submit_offset`."""
        return self._authorized(lambda token: self._client.submit_offset(request, token))

    def submit(self, parts: Callable[[], Iterator[SubmitRequest]], deadline: timedelta) -> SubmitReply:
        """See `CoordinatorClient.submit`; `parts` starts the stream anew."""
        return self._authorized(lambda token: self._client.submit(parts(), token, deadline))

    def release(self, request: ReleaseRequest) -> None:
        """See `CoordinatorClient.release`."""
        self._authorized(lambda token: self._client.release(request, token))

    @property
    def _reply(self) -> JoinReply:
        assert self._joined is not None, "open the session first"
        return self._joined

    def _authorized(self, call: Callable[[str], ResultT]) -> ResultT:
        token = self._reply.session_token
        try:
            return call(token)
        except SessionLost:
            pass
        with self._lock:
            if self._reply.session_token == token:  # else another thread has joined again meanwhile
                self._join(threading.Event())
        try:
            return call(self._reply.session_token)
        except SessionLost as error:
            raise Unreachable(f"the coordinator forgets a session it has just opened ({error})") from None

    def _join(self, interrupt: threading.Event) -> JoinReply:
        signed_at_ms = time.time_ns() // 1_000_000
        reply = self._client.join(
            JoinRequest(
                protocol_version=PROTOCOL_VERSION,
                public_key=self._identity.public_key,
                signed_at_ms=signed_at_ms,
                signature=self._identity.sign_join(self._run_id, signed_at_ms),
                display_name=self._display_name,
                hardware=self._hardware,
                software_version=__version__,
            ),
            interrupt,
        )
        _check(reply)
        if self._joined and self._joined.spec_sha256 != reply.spec_sha256:
            raise LeaveRun(f"the specification of {self._run_id} has changed: start the worker again")
        self._joined = reply
        return reply


def _check(reply: JoinReply) -> None:
    if reply.protocol_version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the coordinator speaks protocol {reply.protocol_version}, this software {PROTOCOL_VERSION}: "
            "upgrade the older one"
        )
    sound = (
        BlobRef.is_sound(reply.spec_sha256, reply.spec_bytes, MAX_SPEC_BYTES)
        and 0 < len(reply.session_token) <= 128
        and reply.max_chunk_bytes > 0
    )
    if not sound:
        raise VersionMismatch("the coordinator's reply to Join is out of bounds: upgrade")
