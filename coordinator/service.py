"""The gRPC boundary: parses, asks the component that knows, answers. Turns refusals into statuses, and counts them.

Handlers hold no state and decide nothing. This file and the server in `app` are the only ones that touch grpc.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

import grpc

from coordinator.admission import Admission
from coordinator.callers import peer_host
from coordinator.dispatcher import Dispatcher, IdleReason, Order
from coordinator.fleet import Origin
from coordinator.idle_words import RunNow, why_idle, why_quarantined
from coordinator.intake import Intake
from coordinator.records import Fault, LeaseId
from coordinator.records import Lease as LeaseRecord
from coordinator.refusal_book import RefusalBook
from coordinator.refused import Refused
from coordinator.registry import Registry, check_version
from coordinator.uploads import MAX_CHUNK_BYTES
from coordinator.versions import Versions
from diffusion_at_home import PROTOCOL_VERSION, events
from diffusion_at_home.errors import SeatLost, StorageError
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.refusals import MEANINGS, REFUSAL_METADATA, RETRY_AFTER_METADATA
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.rpc.coordinator_pb2_grpc import CoordinatorServicer
from diffusion_at_home.runspec import RunSpec

_MAX_WAIT_MS: Final = 60_000
_LONGEST_SILENCE: Final = timedelta(seconds=30)
"""Before the header of a Submit, which is as much as a heartbeat."""

_IDLE_RETRY: Final = timedelta(seconds=1)
"""Between two calls of a worker that waits, at least."""

_QUARANTINE_RETRY: Final = timedelta(minutes=1)
_SEAT_RETRY: Final = timedelta(seconds=2)
"""Of a worker that gets no leases for some rounds."""

_ASKS_PER_SECOND: Final = 200
"""Of workers that find no place in the line: at a millisecond each, a fifth of a core."""

_IDLE: Final = {
    IdleReason.ROUND_FULL: pb.Idle.REASON_ROUND_FULL,
    IdleReason.CLOSING: pb.Idle.REASON_CLOSING,
    IdleReason.DRAINING: pb.Idle.REASON_DRAINING,
    IdleReason.COMPLETE: pb.Idle.REASON_COMPLETE,
}
_LEFT_OUT: Final = {
    Fault.UNCHANGED: pb.REFUSAL_UNCHANGED,
    Fault.COPIED: pb.REFUSAL_COPIED,
    Fault.OUTLIER: pb.REFUSAL_OUTLIER,
    Fault.OPPOSED: pb.REFUSAL_OPPOSED,
}
_ORDERS: Final = {
    Order.CONTINUE: pb.HeartbeatReply.ORDER_CONTINUE,
    Order.HAND_IN: pb.HeartbeatReply.ORDER_HAND_IN,
    Order.ABANDON: pb.HeartbeatReply.ORDER_ABANDON,
}

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
_log = events.logger("coordinator")


@dataclass(slots=True)
class _Call:
    """One that is being answered."""

    name: str
    context: Context
    worker: WorkerId | None = None
    """Whose it is, once its token has proven that."""


class CoordinatorService(CoordinatorServicer):
    """One method a call of the protocol."""

    def __init__(
        self,
        *,
        spec: RunSpec,
        registry: Registry,
        dispatcher: Dispatcher,
        versions: Versions,
        intake: Intake,
        refusals: RefusalBook,
        admission: Admission,
    ) -> None:
        self._config = spec.config
        self._spec = (spec.sha256, len(spec.to_bytes()))
        self._shards = spec.data.train
        self._registry = registry
        self._dispatcher = dispatcher
        self._versions = versions
        self._intake = intake
        self._standing = registry.standing
        self._refusals = refusals
        self._admission = admission

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        """See the proto."""
        call = _Call("join", context)
        return await self._answer(call, self._join(request, call))

    async def Lease(self, request: pb.LeaseRequest, context: Context) -> pb.LeaseReply:
        """See the proto."""
        call = _Call("lease", context)
        return await self._answer(call, self._lease(request, call))

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatReply:
        """See the proto."""
        call = _Call("heartbeat", context)
        return await self._answer(call, self._heartbeat(request, call))

    async def SubmitOffset(self, request: pb.SubmitOffsetRequest, context: Context) -> pb.SubmitOffsetReply:
        """See the proto."""
        call = _Call("submit_offset", context)
        return await self._answer(call, self._submit_offset(request, call))

    async def Submit(self, request_iterator: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitReply:
        """See the proto."""
        call = _Call("submit", context)
        return await self._answer(call, self._submit(request_iterator, call))

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        """See the proto."""
        call = _Call("release", context)
        return await self._answer(call, self._release(request, call))

    # -- the calls ----------------------------------------------------------------------------------------------

    async def _join(self, request: pb.JoinRequest, call: _Call) -> pb.JoinReply:
        self._admission.joins_of.enter(self._address(call.context), "many are joining from this address")
        worker, token = await self._registry.join(request)
        _log.info(
            "worker_joined",
            worker=worker,
            name=request.display_name,
            device=request.hardware.device,
            software=request.software_version,
        )
        return pb.JoinReply(
            protocol_version=PROTOCOL_VERSION,
            session_token=token,
            worker_id=worker,
            spec_sha256=self._spec[0],
            spec_bytes=self._spec[1],
            layout_sha256=self._versions.layout.digest,
            max_chunk_bytes=MAX_CHUNK_BYTES,
        )

    async def _lease(self, request: pb.LeaseRequest, call: _Call) -> pb.LeaseReply:
        worker = self._caller(request.protocol_version, call)
        self._dispatcher.greet(
            worker,
            _speed(request.images_per_second),
            self._registry.num_devices(worker),
            Origin(self._address(call.context), self._registry.team(worker)),
        )
        reply = await self._work_for(worker, request)
        reply.left_out.extend(
            pb.LeftOut(lease_id=verdict.lease_id, round=verdict.round_number, reason=_LEFT_OUT[verdict.fault])
            for verdict in self._standing.take_untold(worker)
        )
        return reply

    async def _work_for(self, worker: WorkerId, request: pb.LeaseRequest) -> pb.LeaseReply:
        if self._dispatcher.num_waiting >= self._config.server.max_waiting:
            await self._dispatcher.release_all(worker)  # as below
            full = IdleReason.DRAINING if self._dispatcher.is_draining else IdleReason.ROUND_FULL
            return self._idle(full, self._admission.waiting.come_back(_ASKS_PER_SECOND))
        if rounds := self._standing.rounds_left(worker, self._next_round):
            await self._dispatcher.release_all(worker)
            back = self._admission.waiting.spread(_QUARANTINE_RETRY)
            return _idle(pb.Idle.REASON_QUARANTINED, back, why_quarantined(rounds, self._next_round))
        outcome = await self._dispatcher.lease(worker, min(request.wait_ms, _MAX_WAIT_MS) / 1000)
        if isinstance(outcome, LeaseRecord):
            return pb.LeaseReply(grant=self._grant(outcome, request))
        if outcome is IdleReason.STOPPING:
            back = self._admission.waiting.come_back(_ASKS_PER_SECOND)
            raise Refused(
                pb.REFUSAL_SHUTTING_DOWN, "the coordinator is about to stop: it knows you when it is back", back
            )
        return self._idle(outcome, self._admission.waiting.spread(_IDLE_RETRY))

    @property
    def _next_round(self) -> int:
        return self._versions.newest.version + 1

    def _idle(self, reason: IdleReason, back: timedelta) -> pb.LeaseReply:
        now = RunNow(
            round_number=self._next_round,
            seconds_to_close=self._dispatcher.seconds_to_close(),
            drain_note=self._dispatcher.drain_note,
            total_images=self._config.run.total_images,
        )
        return _idle(_IDLE[reason], back, why_idle(reason, now))

    def _grant(self, lease: LeaseRecord, request: pb.LeaseRequest) -> pb.LeaseGrant:
        held = request.held_version if request.has_weights else None
        return pb.LeaseGrant(
            lease_id=lease.lease_id,
            round=lease.round_number,
            base_version=lease.base_version,
            base_digest=self._versions.newest.weights_digest,
            catch_up=self._versions.catch_up(held),
            ranges=[pb.ShardRange(shard=r.shard, epoch=r.epoch, start=r.start, count=r.count) for r in lease.ranges],
            seed=lease.seed,
            quota_images=lease.quota_images,
            learning_rate=lease.learning_rate,
            codec=self._config.codec.delta.value,
            timeout_ms=_ms(self._config.lease.timeout_seconds),
            next_heartbeat_ms=_ms(self._config.lease.heartbeat_seconds),
            closes_in_ms=self._closes_in_ms(),
            upcoming_shards=[self._shards[index].sha256 for index in self._dispatcher.upcoming_shards()],
        )

    async def _heartbeat(self, request: pb.HeartbeatRequest, call: _Call) -> pb.HeartbeatReply:
        worker = self._caller(request.protocol_version, call)
        order = self._dispatcher.heartbeat(worker, LeaseId(request.lease_id))
        return pb.HeartbeatReply(
            order=_ORDERS[order],
            next_heartbeat_ms=_ms(self._config.lease.heartbeat_seconds),
            closes_in_ms=self._closes_in_ms(),
            latest_version=self._versions.newest.version,
            reason=await self._why_abandoned(worker, LeaseId(request.lease_id)) if order is Order.ABANDON else None,
        )

    async def _why_abandoned(self, worker: WorkerId, lease_id: LeaseId) -> pb.Refusal:
        try:
            self._dispatcher.check_acceptable(await self._dispatcher.owned(worker, lease_id))
        except Refused as refused:
            return refused.refusal
        raise AssertionError(f"lease {lease_id} was given up and still counts")

    async def _submit_offset(self, request: pb.SubmitOffsetRequest, call: _Call) -> pb.SubmitOffsetReply:
        worker = self._caller(request.protocol_version, call)
        lease = await self._dispatcher.owned(worker, LeaseId(request.lease_id))
        return pb.SubmitOffsetReply(received_bytes=self._intake.received_bytes(lease, request.sha256))

    async def _submit(self, requests: AsyncIterator[pb.SubmitRequest], call: _Call) -> pb.SubmitReply:
        try:
            async with asyncio.timeout(_LONGEST_SILENCE.total_seconds()):
                first = await anext(aiter(requests), None)
        except TimeoutError:
            raise Refused(pb.REFUSAL_WRONG_OFFSET, "the header of a Submit did not come: try again") from None
        if first is None or first.WhichOneof("part") != "header":
            raise Refused(pb.REFUSAL_MALFORMED, "the first message of a Submit must be its header")
        worker = self._caller(first.header.protocol_version, call)
        lease = await self._dispatcher.owned(worker, LeaseId(first.header.lease_id))
        self._registry.check_signature(worker, first.header, self._terms(lease))
        full = "many contributions are coming in from this address"
        with self._admission.uploads_of.taken(self._address(call.context), full):
            return self._intake.reply(await self._intake.take(lease, first.header, requests))

    def _terms(self, lease: LeaseRecord) -> LeaseTerms:
        """As it was granted."""
        base_digest = self._versions.history[lease.base_version].weights_digest
        return LeaseTerms(lease.base_version, base_digest, lease.seed, lease.learning_rate, lease.ranges)

    async def _release(self, request: pb.ReleaseRequest, call: _Call) -> pb.ReleaseReply:
        worker = self._caller(request.protocol_version, call)
        reason = request.reason if request.reason.isprintable() else "unprintable"
        _log.info("lease_released", lease=request.lease_id, worker=worker, reason=reason[:64])
        await self._dispatcher.release(worker, LeaseId(request.lease_id))
        return pb.ReleaseReply()

    # -- the boundary -------------------------------------------------------------------------------------------

    def _caller(self, protocol_version: int, call: _Call) -> WorkerId:
        check_version(protocol_version)
        worker = self._registry.authenticate(dict(call.context.invocation_metadata() or ()))
        call.worker = worker
        self._registry.check_admitted(worker)
        self._admission.calls_of.enter(worker, "this worker calls too often")
        return worker

    def _address(self, context: Context) -> Hashable | None:
        return self._admission.addresses.caller(peer_host(context.peer()))

    def _closes_in_ms(self) -> int:
        left = self._dispatcher.seconds_to_close()
        return 0 if left is None else max(1, _ms(left))

    async def _answer(self, call: _Call, work: Awaitable[T]) -> T:
        """What `work` comes to; a refusal is the call's status, with which no reply is sent.

        Not by `context.abort`: its exception and the call hold each other, so that the stream would count among its
        connection's until garbage is collected.
        """
        context = call.context
        try:
            return await work
        except Refused as refused:
            refusal = refused.with_traceback(None)  # which would hold this frame
        except StorageError as error:
            _log.error("storage_error", call=call.name, error=str(error))
            sentence = "the coordinator cannot store anything now: come back later"
            refusal = Refused(pb.REFUSAL_STORAGE_FULL, sentence, timedelta(seconds=30))
        except SeatLost as error:
            _log.error("seat_lost", call=call, error=str(error))
            refusal = Refused(pb.REFUSAL_SHUTTING_DOWN, "another coordinator takes over", _SEAT_RETRY)
        except Exception:  # noqa: BLE001 -- the RPC boundary
            _log.exception("call_failed", call=call.name)
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("the coordinator has a fault of its own; it is in its log")
            return cast("T", None)
        self._refusals.note(call.name, refusal, call.worker)
        if self._admission.refusal_lines.has_room():
            _log.info("call_refused", call=call.name, reason=refusal.name, sentence=str(refusal))
        trailer = [(REFUSAL_METADATA, pb.Refusal.Name(refusal.refusal))]
        if refusal.retry_after is not None:
            trailer.append((RETRY_AFTER_METADATA, str(int(refusal.retry_after / timedelta(milliseconds=1)))))
        context.set_code(MEANINGS[refusal.refusal].status)
        context.set_details(str(refusal))
        context.set_trailing_metadata(tuple(trailer))
        return cast("T", None)


def _speed(claimed: float) -> float:
    return claimed if 0 < claimed < 1e6 else 0.0  # also refuses NaN


def _idle(reason: pb.Idle.Reason, back: timedelta, sentence: str) -> pb.LeaseReply:
    after_ms = int(back / timedelta(milliseconds=1))
    return pb.LeaseReply(idle=pb.Idle(reason=reason, retry_after_ms=after_ms, sentence=sentence))


def _ms(seconds: float) -> int:
    return min(int(seconds * 1000), 2**32 - 1)
