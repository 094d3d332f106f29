"""A worker's standing with one coordinator: who it is, the token of the moment, and the calls made with it.

A coordinator that has forgotten the token is joined again, with the same key and thus the same standing, and the call
is repeated: callers never see a `SessionLost`. Once the session was open nothing that is heard ends it for good: what
answers in the coordinator's place, or a clock that has jumped, passes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol, TypeVar

from diffusion_at_home import PROTOCOL_VERSION, __version__
from diffusion_at_home.errors import (
    Busy,
    DahError,
    LeaseLost,
    NotAdmitted,
    RetryCall,
    RunChanged,
    SessionLost,
    VersionMismatch,
)
from diffusion_at_home.identity import Handed, Identity, WorkerId
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
from diffusion_at_home.upgrade import told_to_worker
from worker.blobs import BlobRef
from worker.client import CoordinatorClient, Cue

_MAX_CHUNK_BYTES: Final = 4 * 2**20
"""Larger chunks gain nothing; a coordinator that allows more gets these."""

_NEVER: Final = threading.Event()

ResultT = TypeVar("ResultT")


class Line(Protocol):
    """Who is told how calls end."""

    def answered(self) -> None:
        """The coordinator has answered, with whatever."""

    def failed(self) -> RetryCall | None:
        """It has not; returns a better reason than the call's own, if there is one."""


class Untold:
    """Nobody."""

    def answered(self) -> None:
        """See `Line`."""

    def failed(self) -> RetryCall | None:
        """See `Line`."""
        return None


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a worker says of itself when it joins."""

    display_name: str
    hardware: Hardware
    invite: str = ""
    """Code of an invitation."""
    team: str = ""


class Session:
    """Calls as one worker of one run; may be used from any thread once open."""

    def __init__(
        self,
        *,
        client: CoordinatorClient,
        identity: Identity,
        run_id: str,
        introduction: Introduction,
        stamp_ms: Callable[[], int],
        line: Line,
    ) -> None:
        """`stamp_ms` is what the next Join is signed with: milliseconds, later each time."""
        self._stamp_ms = stamp_ms
        self._line = line
        self._client = client
        self._identity = identity
        self._run_id = run_id
        self._introduction = introduction
        self._lock = threading.Lock()
        self._joined: JoinReply | None = None

    def open(self, interrupt: threading.Event) -> JoinReply:
        """Join; one try. Raises `RetryCall`, `LeaveRun`, and `Interrupted` when `interrupt` is set meanwhile."""
        with self._lock:
            try:
                return self._join(interrupt)
            except Busy:
                raise
            except RetryCall as failure:
                raise self._line.failed() or failure from None

    def reopen(self, interrupt: threading.Event) -> JoinReply:
        """Join a run that has admitted this key before, and thus will again; raises as `open`, but no `NotAdmitted`."""
        with self._lock:
            self._join_again(interrupt)
            return self._reply

    @property
    def worker_id(self) -> WorkerId:
        """Who this is to the run."""
        return self._identity.worker_id

    @property
    def run_id(self) -> str:
        """Whose run it is."""
        return self._run_id

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
        return self._authorized(lambda token: self._client.lease(request, token, interrupt), interrupt)

    def heartbeat(self, request: HeartbeatRequest, interrupt: threading.Event) -> HeartbeatReply:
        """See `CoordinatorClient.heartbeat`."""
        return self._authorized(lambda token: self._client.heartbeat(request, token, interrupt), interrupt)

    def submit_offset(self, request: SubmitOffsetRequest, cue: Cue = _NEVER) -> int:
        """See `CoordinatorClient.submit_offset`."""
        return self._authorized(lambda token: self._client.submit_offset(request, token, cue), cue)

    def submit(
        self, parts: Callable[[], Iterator[SubmitRequest]], deadline: timedelta, cue: Cue = _NEVER
    ) -> SubmitReply:
        """See `CoordinatorClient.submit`; `parts` starts the stream anew."""
        return self._authorized(lambda token: self._client.submit(parts(), token, deadline, cue), cue)

    def release(self, request: ReleaseRequest) -> None:
        """See `CoordinatorClient.release`."""
        self._authorized(lambda token: self._client.release(request, token))

    def signature(self, handed: Handed) -> bytes:
        """What says that a contribution is this worker's: see `SubmitHeader.signature`."""
        return self._identity.sign_contribution(handed)

    @property
    def _reply(self) -> JoinReply:
        assert self._joined is not None, "open the session first"
        return self._joined

    def _authorized(self, call: Callable[[str], ResultT], cue: Cue = _NEVER) -> ResultT:
        token = self._reply.session_token
        try:
            return self._told(lambda: call(token))
        except SessionLost:
            pass
        with self._lock:
            if self._reply.session_token == token:  # else another thread has joined again meanwhile
                self._join_again(cue)
        try:
            return self._told(lambda: call(self._reply.session_token))
        except SessionLost as error:
            raise RetryCall(f"the coordinator forgets a session it has just opened ({error})") from None

    def _told(self, call: Callable[[], ResultT]) -> ResultT:
        """`call`, its end told to the line. A request that was refused as senseless was garbled on its way."""
        try:
            result = call()
        except Busy:
            self._line.answered()
            raise
        except RetryCall as failure:
            raise self._line.failed() or failure from None
        except NotAdmitted as refused:
            self._line.answered()
            raise LeaseLost(f"the coordinator cannot make sense of a call ({refused})", "malformed") from None
        except DahError:
            self._line.answered()
            raise
        self._line.answered()
        return result

    def _join_again(self, cue: Cue) -> None:
        try:
            self._join(cue)
        except NotAdmitted as refused:
            raise self._line.failed() or RetryCall(f"the coordinator does not admit us again: {refused}") from None
        except Busy:
            self._line.answered()
            raise
        except RetryCall as failure:
            raise self._line.failed() or failure from None
        self._line.answered()

    def _join(self, cue: Cue) -> JoinReply:
        signed_at_ms = self._stamp_ms()
        reply = self._client.join(
            JoinRequest(
                protocol_version=PROTOCOL_VERSION,
                public_key=self._identity.public_key,
                signed_at_ms=signed_at_ms,
                signature=self._identity.sign_join(self._run_id, signed_at_ms),
                display_name=self._introduction.display_name,
                hardware=self._introduction.hardware,
                invite=self._introduction.invite,
                team=self._introduction.team,
                software_version=__version__,
            ),
            cue,
        )
        _check(reply)
        if self._joined and self._joined.spec_sha256 != reply.spec_sha256:
            raise RunChanged(f"the specification of {self._run_id} has changed")
        self._joined = reply
        return reply


def _check(reply: JoinReply) -> None:
    sound = (
        BlobRef.is_sound(reply.spec_sha256, reply.spec_bytes, MAX_SPEC_BYTES)
        and 0 < len(reply.session_token) <= 128
        and reply.max_chunk_bytes > 0
    )
    if not sound:
        raise RetryCall("the reply to Join is out of bounds: it is no coordinator's")
    if reply.protocol_version != PROTOCOL_VERSION:
        raise VersionMismatch(
            f"the coordinator speaks protocol {reply.protocol_version}, this software {PROTOCOL_VERSION}: "
            f"{told_to_worker(reply.protocol_version)}"
        )
