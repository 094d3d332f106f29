"""One simulated volunteer: lease, pull, work, hand in, as a worker does, or badly in one of the ways of `Misbehaviour`.

It lives in one task: cancelling that is its death, and takes every call and heartbeat with it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.errors import Busy, LeaseLost, LeaveRun, RetryCall
from diffusion_at_home.refusals import MEANINGS, short_name
from diffusion_at_home.rpc import coordinator_pb2 as pb
from simulator.deltas import Deltas, Encoded
from simulator.mutation import mutate_field
from simulator.profile import Misbehaviour, Profile
from simulator.session import Refused, SimulatedSession, Unanswered
from simulator.settings import FleetSettings
from simulator.work import Product, Work

_SLOWER: Final = 20.0
_SPARE_SECONDS: Final = 0.25
"""Between the expected receipt and the expected close, as the worker's own."""

_GIVES_UP_SECONDS: Final = 0.1
"""Longest that one who loses receipts waits for one."""

HAND_IN: Final = "hand in, with tries"
"""Among a tally's times: from the first try to the receipt."""

_FIRST_RETRY_SECONDS: Final = 1.0
_CONSEQUENCES: Final = {short_name(refusal): meaning.consequence for refusal, meaning in MEANINGS.items()}

T = TypeVar("T")


class Fetch(Protocol):
    """Downloads a blob and throws it away."""

    async def __call__(self, sha256: str) -> None:
        """By its name."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all volunteers of a fleet share."""

    settings: FleetSettings
    work: Work
    deltas: Deltas
    fetch: Fetch | None
    """None if what a lease needs is not fetched."""


class _Lost(Exception):
    """This lease is over without a receipt."""


class Volunteer:
    """See the module."""

    def __init__(self, profile: Profile, session: SimulatedSession, around: Surroundings) -> None:
        self.profile = profile
        self.session = session
        self._around = around
        self._held: int | None = None
        claims = around.settings.claim_speed or profile.misbehaviour is Misbehaviour.SLOW
        self._measured = profile.images_per_second if claims and math.isfinite(profile.images_per_second) else 0.0

    @property
    def images_per_second(self) -> float:
        """That it trains at, whatever it claims."""
        return self.profile.images_per_second / self._boast

    @property
    def _boast(self) -> float:
        return _SLOWER if self.profile.misbehaviour is Misbehaviour.SLOW else 1.0

    def forget(self) -> None:
        """What dies with a process: weights and leases, not the key."""
        self._held = None

    async def live(self) -> None:
        """Work until the run is complete."""
        await self._patiently(self.session.join)
        while (grant := await self._lease()) is not None:
            try:
                await self._work_on(grant)
            except _Lost as lost:
                self.session.tally.counts[f"lost: {lost}"] += 1

    # -- one lease ----------------------------------------------------------------------------------------------

    async def _lease(self) -> pb.LeaseGrant | None:
        """A grant; None when the run is complete."""
        while True:
            reply = await self._patiently(self._ask)
            if reply.WhichOneof("outcome") == "grant":
                self.session.tally.counts["granted"] += 1
                return reply.grant
            self.session.tally.counts["idle"] += 1
            if reply.idle.reason == pb.Idle.REASON_COMPLETE:
                return None
            await asyncio.sleep(reply.idle.retry_after_ms / 1000)

    async def _ask(self) -> pb.LeaseReply:
        request = pb.LeaseRequest(
            protocol_version=PROTOCOL_VERSION,
            images_per_second=self._measured,
            held_version=self._held or 0,
            has_weights=self._held is not None,
            wait_ms=round(1000 * self._around.settings.wait_seconds),
        )
        return await self.session.lease(request)

    async def _work_on(self, grant: pb.LeaseGrant) -> None:
        lease = _LeaseInHand(grant, self.session, self._mutated)
        keeper = asyncio.create_task(lease.keep_alive())
        try:
            await self._pull(grant)
            product = await self._around.work(self.profile.number, grant, lease.wrap_up, lease.trained)
            match self.profile.misbehaviour:
                case Misbehaviour.HANG:
                    await keeper
                case Misbehaviour.OVERSLEEP:
                    keeper.cancel()
                    await asyncio.sleep(1.5 * grant.timeout_ms / 1000)
            if lease.lost:
                raise _Lost(lease.lost)
            if product.images == 0:
                await self._give_back(grant)
            await self._hand_in(grant, product)
        finally:
            keeper.cancel()

    async def _pull(self, grant: pb.LeaseGrant) -> None:
        line = self.profile.line
        await asyncio.sleep(sum(blob.size_bytes for blob in grant.catch_up) / line.down_bytes_per_second)
        if self._around.fetch is not None:
            for blob in grant.catch_up:
                await self._around.fetch(blob.sha256)
        self._held = grant.base_version

    async def _give_back(self, grant: pb.LeaseGrant) -> None:
        request = pb.ReleaseRequest(protocol_version=PROTOCOL_VERSION, lease_id=grant.lease_id, reason="no_time")
        await self._patiently(lambda: self.session.release(request))
        raise _Lost("no_time")

    async def _hand_in(self, grant: pb.LeaseGrant, product: Product) -> None:
        if product.seconds > 0:
            claimed = product.images / product.seconds * self._boast
            self._measured = min(claimed, 1e6 - 1)
        delta, counts, receipt = self._spoilt(product.delta), self.session.tally.counts, None
        if self.profile.misbehaviour is Misbehaviour.LOSE_RECEIPTS:
            receipt = await self._lose_receipt(grant, product, delta)
        with self.session.tally.timed(HAND_IN):
            last = await self._patiently(lambda: self._send(grant, product, delta))
        counts["receipts that differ"] += receipt is not None and receipt != last
        counts["accepted"] += 1
        counts["images"] += last.images
        if self.profile.misbehaviour is Misbehaviour.TWICE:
            counts["receipts that differ"] += last != await self._patiently(lambda: self._send(grant, product, delta))
            other = self._around.deltas.next()
            await self._patiently(lambda: self._send(grant, product, other))

    async def _lose_receipt(self, grant: pb.LeaseGrant, product: Product, delta: Encoded) -> pb.SubmitReply | None:
        """Hand in without learning of it: the answer is thrown away, or the call given up around the time it comes."""
        sending = self._patiently(lambda: self._send(grant, product, delta))
        self.session.tally.counts["receipts lost"] += 1
        if self.profile.rng.random() < 0.5:
            return await sending
        with suppress(TimeoutError):
            return await asyncio.wait_for(sending, self.profile.rng.uniform(0.0, _GIVES_UP_SECONDS))
        return None

    async def _send(self, grant: pb.LeaseGrant, product: Product, delta: Encoded) -> pb.SubmitReply:
        """One try, from where the last one ended."""
        await asyncio.sleep(self.profile.line.delay_seconds)
        asked = pb.SubmitOffsetRequest(protocol_version=PROTOCOL_VERSION, lease_id=grant.lease_id, sha256=delta.sha256)
        offset = await self.session.submit_offset(asked)
        header = pb.SubmitHeader(
            protocol_version=PROTOCOL_VERSION,
            lease_id=grant.lease_id,
            sha256=delta.sha256,
            size_bytes=delta.size_bytes,
            offset=offset,
            images=product.images,
            train_ms=round(1000 * product.seconds),
            mean_loss=product.mean_loss,
        )
        self.session.sign(header, grant)
        pieces = delta.pieces(offset, self.session.max_chunk_bytes)
        return await self.session.submit(self._parts(self._mutated(header), pieces))

    async def _parts(self, header: pb.SubmitHeader, pieces: list[bytes]) -> AsyncIterator[pb.SubmitRequest]:
        yield pb.SubmitRequest(header=header)
        rate = self.profile.line.up_bytes_per_second
        for piece in pieces:
            if math.isfinite(rate):
                await asyncio.sleep(len(piece) / rate)
            yield pb.SubmitRequest(chunk=piece)

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _spoilt(self, delta: Encoded) -> Encoded:
        match self.profile.misbehaviour:
            case Misbehaviour.GARBAGE:
                return Encoded.of(self.profile.rng.randbytes(delta.size_bytes))
            case Misbehaviour.WRONG_SIZE:
                return Encoded.of(delta.data[: delta.size_bytes // 2])
            case Misbehaviour.NOT_FINITE:
                return Encoded.of(not_finite(delta.data))
            case _:
                return delta

    def _mutated(self, message: Any) -> Any:
        if self.profile.misbehaviour is not Misbehaviour.MUTATE:
            return message
        return mutate_field(message, self.profile.rng)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first answer, with pauses as a worker makes them; `_Lost` if the lease is over, `Refused` if the run is."""
        failures = 0
        while True:
            try:
                await asyncio.sleep(self.profile.line.delay_seconds)
                return await attempt()
            except Unanswered:
                ceiling = self._around.settings.retry_ceiling_seconds
                seconds = min(ceiling, _FIRST_RETRY_SECONDS * 2.0**failures) * self.profile.rng.uniform(0.5, 1.0)
                failures += 1
            except Refused as refused:
                seconds = await self._after(refused)
            await asyncio.sleep(seconds)

    async def _after(self, refused: Refused) -> float:
        """Seconds until the same call may be made again."""
        consequence = _CONSEQUENCES[refused.reason]
        if refused.reason == "unknown_session":
            await self.session.join()
            return 0.0
        if issubclass(consequence, Busy):
            return refused.retry_after / timedelta(seconds=1) * self.profile.rng.uniform(1.0, 1.5)
        if issubclass(consequence, RetryCall):
            return 0.1
        if issubclass(consequence, LeaseLost) or self.profile.misbehaviour is Misbehaviour.MUTATE:
            raise _Lost(refused.reason) from None
        assert issubclass(consequence, LeaveRun), consequence
        raise refused


class _LeaseInHand:
    """A lease as its volunteer knows it: heartbeats up, orders down."""

    def __init__(self, grant: pb.LeaseGrant, session: SimulatedSession, mutated: Callable[[Any], Any]) -> None:
        self.wrap_up = asyncio.Event()
        """Work should end: handing in is due, or the lease is lost."""
        self.lost = ""
        """Why, once it is."""
        self._grant = grant
        self._session = session
        self._mutated = mutated
        self._loop = asyncio.get_running_loop()
        self._images = 0
        self._hand_in_at = math.inf
        self._interval = grant.next_heartbeat_ms / 1000
        self._failures = 0
        self._plan(grant.closes_in_ms)

    def trained(self, images: int) -> None:
        """Note the images trained so far."""
        self._images = images

    async def keep_alive(self) -> None:
        """Beat until the lease is lost or this is cancelled."""
        beat_at = self._loop.time() + self._interval
        while not self.lost:
            due = beat_at if self.wrap_up.is_set() else min(beat_at, self._hand_in_at)
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if self._loop.time() >= self._hand_in_at:
                self.wrap_up.set()
            if self._loop.time() >= beat_at:
                self._failures = 0 if await self._beat() else self._failures + 1
                pause = min(2.0 ** (self._failures - 1), self._interval) if self._failures else self._interval
                beat_at = self._loop.time() + pause

    async def _beat(self) -> bool:
        """Whether it was answered."""
        request = pb.HeartbeatRequest(
            protocol_version=PROTOCOL_VERSION, lease_id=self._grant.lease_id, images_done=self._images
        )
        try:
            reply = await self._session.heartbeat(self._mutated(request))
        except Unanswered:
            return False
        except Refused as refused:
            if refused.reason == "unknown_session":
                await self._rejoin()
            return False
        self._plan(reply.closes_in_ms)
        if reply.order == pb.HeartbeatReply.ORDER_HAND_IN:
            self.wrap_up.set()
        if reply.order == pb.HeartbeatReply.ORDER_ABANDON:
            self.lost = short_name(reply.reason)
            self.wrap_up.set()
        return True

    async def _rejoin(self) -> None:
        try:
            await self._session.join()
        except (Refused, Unanswered):
            return  # the next beat tries again

    def _plan(self, closes_in_ms: int) -> None:
        if closes_in_ms > 0:
            self._hand_in_at = self._loop.time() + closes_in_ms / 1000 - _SPARE_SECONDS


def not_finite(data: bytes) -> bytes:
    """An encoded vector whose first chunk begins with a number that is none, in any codec that begins with one."""
    lengths = int.from_bytes(data[20:24], "little")
    first = 24 + 4 * lengths
    return data[:first] + b"\xff\xff\xff\x7f" + data[first + 4 :]
