"""Who works on what: grants leases, keeps them alive, takes them back, accepts what they bring. One round at a time.

Owns the live round's books: its progress, the active leases and the data pool; the ledger holds the same, written first. What
is asked while the ledger stores is decided next, on a draft of the books, all of it in one transaction: the draft becomes
the books once it is stored, and is dropped if it cannot be. No caller that hangs up stops a change half-way.

Who asks for work while there is none stands in line, and gets a lease out of the very batch in which work turns up.
Time is monotonic; after a restart every active lease has a whole timeout again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

from coordinator.batches import MAX_BATCH, Again, Batches
from coordinator.bell import Bell
from coordinator.books import Active, Books, Draft
from coordinator.closing import CloseReason, Progress, close_reason, closes_at
from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.quota import Asker, Demand, PaceBook, lease_images_within, seconds_for
from coordinator.records import Contribution, Lease, LeaseId, LeaseState, Round, now_ms
from coordinator.refused import Refused
from coordinator.waiting import Place, WaitingLine
from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.order import ShardRange, split_ranges
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.outer.schedule import learning_rate
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

_LIVE_HEARTBEATS: Final = 3
"""Heartbeats after which a silent worker no longer counts for the fleet's speed."""

_UPCOMING: Final = 4
"""Shards that a grant announces."""

_ABOUT_TO_CLOSE_SECONDS: Final = 1.0
"""Left when a heartbeat orders to hand in; before, the worker plans by the announced time and trains on."""

_FLEET_SECONDS: Final = 1.0
"""For which the pace of an unchanged fleet is not summed up again."""

_SOON: Final = timedelta(seconds=1)

T = TypeVar("T")
_log = events.logger("coordinator")


class IdleReason(StrEnum):
    """Why there is no lease now."""

    ROUND_FULL = "round_full"
    CLOSING = "closing"
    COMPLETE = "complete"
    STOPPING = "stopping"
    """This process is about to end."""


class Order(StrEnum):
    """What a heartbeat tells the worker."""

    CONTINUE = "continue"
    HAND_IN = "hand_in"
    ABANDON = "abandon"


_Answer = Lease | IdleReason


@dataclass(frozen=True, slots=True)
class Work:
    """A contribution that has been screened and stored, not yet accepted."""

    lease: Lease
    sha256: str
    size_bytes: int
    images: int
    mean_loss: float
    train_ms: int


@dataclass(frozen=True, slots=True)
class _Ask:
    """For a lease: what the worker holds by our books goes back first."""

    place: Place[_Answer]


@dataclass(frozen=True, slots=True)
class _End:
    """An active lease."""

    lease_id: LeaseId
    state: LeaseState


_Request = _Ask | _End | Work
_Result = Contribution | None
_Outcome = _Result | Exception | Again

_Known = Mapping[LeaseId, tuple[Contribution | None, Lease | None]]
"""What the ledger has of leases that are not active."""


@dataclass(frozen=True, slots=True)
class _Fleet:
    """How long the live workers take for a round's target; None if nobody's pace is known."""

    round_number: int
    seconds: float | None
    summed_at: float


class Dispatcher:
    """The live round and its leases."""

    def __init__(
        self,
        *,
        config: RunConfig,
        shard_sizes: Sequence[int],
        ledger: LedgerThread,
        pool: DataPool,
        clock: Clock,
        attention: Clock,
    ) -> None:
        """`attention` is the clock by which workers are silent; `clock` tells everything else."""
        self.changed = Bell()
        """Rings when there may be a reason to close."""
        self._config = config
        self._shard_sizes = shard_sizes
        self._ledger = ledger
        self._clock = clock
        self._attention = attention
        self._lock = asyncio.Lock()
        self._books = Books(pool, Progress(0, 0))
        self._round: Round | None = None
        self._images_before = 0
        self._idle_reason = IdleReason.CLOSING
        self._line = WaitingLine[_Answer](IdleReason.ROUND_FULL)
        self._batches = Batches[_Request, _Result](self._store)
        self._heard: dict[WorkerId, float] = {}
        self._devices: dict[WorkerId, int] = {}
        self._paces = PaceBook()
        self._fleet: _Fleet | None = None
        self._upcoming: tuple[DataPool, list[int]] | None = None

    # -- what the round is --------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """The live round's, or the last one's."""
        return self._books.progress

    @property
    def idle_reason(self) -> IdleReason:
        """Why nothing is granted while no round is open."""
        return self._idle_reason

    @property
    def num_waiting(self) -> int:
        """Workers in the line."""
        return len(self._line)

    @property
    def _takes_late(self) -> bool:
        return self._config.round.late_weight > 0

    @property
    def round_number(self) -> int | None:
        """The open round."""
        return self._round.number if self._round else None

    def live_workers(self) -> list[WorkerId]:
        """Those heard lately, and those that wait."""
        oldest = self._clock.now() - _LIVE_HEARTBEATS * self._config.lease.heartbeat_seconds
        waiting = self._line.workers()
        return [worker for worker, heard_at in self._heard.items() if heard_at >= oldest or worker in waiting]

    def speed(self, worker: WorkerId) -> float | None:
        """Images a second while it trains, None while unknown."""
        pace = self._paces.get(worker)
        return None if pace is None else pace.images_per_second

    def seconds_to_close(self) -> float | None:
        """Time until the round closes if nothing more comes in; None while that is not known."""
        return self._seconds_to_close(self.progress)

    def _seconds_to_close(self, progress: Progress) -> float | None:
        deadline = closes_at(self._config, progress)
        return None if self._round is None or deadline is None else max(0.0, deadline - self._clock.now())

    def close_reason(self) -> CloseReason | None:
        """Why the round should close now, or None."""
        return close_reason(self._config, self.progress, self._clock.now()) if self._round else None

    def upcoming_shards(self) -> list[int]:
        """Indices of the shards that the next leases will probably take from."""
        pool = self._books.pool
        if self._upcoming is None or self._upcoming[0] is not pool:
            soon, _ = pool.take(2 * max(self._shard_sizes), seed=self._config.run.seed, shard_sizes=self._shard_sizes)
            self._upcoming = pool, list(dict.fromkeys(part.shard for part in soon))[:_UPCOMING]
        return self._upcoming[1]

    # -- the life of a round ------------------------------------------------------------------------------------

    async def open(self, opened: Round, *, images_before: int, is_new: bool) -> None:
        """Start granting leases of `opened`; one that was open before a restart goes on with what it had."""
        async with self._lock:
            if is_new:
                await self._ledger.run(Ledger.open_round, opened)
            accepted = await self._ledger.run(Ledger.contributions, opened.number)
            leases = await self._ledger.run(Ledger.active_leases)
            missed = await self._ledger.run(Ledger.missed_leases, opened.number - 2) if self._takes_late else []
            smallest = self._config.lease.min_steps * self._config.inner.batch_images
            books = Books(self._books.pool, Progress(opened.target_images, smallest))
            for lease in leases:
                books.add(Active(lease, None, self._attention.now()))
            books.progress.leased_images = sum(lease.quota_images for lease in leases)
            books.progress.started_at = self._clock.now() if leases or accepted else None
            for contribution in accepted:
                self._count(books.progress, contribution.images)
            self._books = books
            self._set_late(missed)
            self._round, self._images_before = opened, images_before
            self._heard = {worker: self._heard[worker] for worker in self.live_workers()}
            self._devices = {worker: self._devices.get(worker, 1) for worker in self._heard}
        _log.info("round_opened", round=opened.number, target_images=opened.target_images, leases=len(leases))
        self._batches.poke()  # for those in line
        self.changed.ring()

    async def close(self, reason: CloseReason) -> None:
        """Fix the round's contributions; leases that are still out have missed it."""
        await _finish(self._close(reason))

    async def _close(self, reason: CloseReason) -> None:
        async with self._lock:
            assert self._round is not None
            missed = [active.lease for active in self._books.active.values()]
            pool = self._books.pool.give_back([part for lease in missed for part in lease.ranges])
            await self._ledger.run(
                Ledger.close_round, self._round.number, reason.value, [lease.lease_id for lease in missed], pool
            )
            self._books = Books(pool, self.progress)
            self._set_late(missed)
            accepted = self.progress.accepted_images
            _log.info(
                "round_closed", round=self._round.number, reason=reason.value, images=accepted, missed=len(missed)
            )
            self._round = None
        self.changed.ring()

    def _set_late(self, missed: Sequence[Lease]) -> None:
        """Remember what missed the last round and may still count in the next."""
        self._books.late = {lease.lease_id: lease for lease in missed} if self._takes_late else {}

    async def expect_late(self, number: int) -> None:
        """After a restart between two rounds: what missed round `number` may still count in the next."""
        self._set_late(await self._ledger.run(Ledger.missed_leases, number - 1) if self._takes_late else [])

    def expected(self) -> set[LeaseId]:
        """The leases whose contributions may still count."""
        return {*self._books.active, *self._books.late}

    def may_count(self, lease_id: LeaseId) -> bool:
        """Whether the lease is one of the `expected`."""
        return lease_id in self._books.active or lease_id in self._books.late

    def complete(self) -> None:
        """The run has its images: workers that wait leave."""
        self._send_away(IdleReason.COMPLETE)

    def stop(self) -> None:
        """Grant nothing more. That a run is complete stays the reason: workers that wait leave instead of coming back."""
        if self._idle_reason is not IdleReason.COMPLETE:
            self._send_away(IdleReason.STOPPING)

    def _send_away(self, reason: IdleReason) -> None:
        self._idle_reason = reason
        self._line.send_away(reason)
        self.changed.ring()

    # -- leases -------------------------------------------------------------------------------------------------

    def greet(self, worker: WorkerId, claimed_speed: float, devices: int = 1) -> None:
        """Note that a worker is there, and what it says of its speed and its devices."""
        self._heard[worker] = self._clock.now()
        self._devices[worker] = devices
        self._paces.suggest(worker, claimed_speed)

    async def lease(self, worker: WorkerId, seconds: float) -> Lease | IdleReason:
        """A lease of the live round for `worker`, or why there is none so many seconds later. What it holds goes back."""
        if self._grants_nothing:
            return self._idle_reason
        with self._line.wait(worker) as place:
            await self._batches.do(_Ask(place))
            if not place.answer.done() and seconds > 0:
                await asyncio.wait([place.answer], timeout=seconds)
        self._heard[worker] = self._clock.now()
        if place.answer.done():
            return place.answer.result()
        return self._idle_reason if self._round is None else IdleReason.ROUND_FULL

    async def grant(self, worker: WorkerId) -> Lease | IdleReason:
        """The same without waiting."""
        return await self.lease(worker, 0.0)

    @property
    def _grants_nothing(self) -> bool:
        return self._idle_reason in (IdleReason.COMPLETE, IdleReason.STOPPING)

    def heartbeat(self, worker: WorkerId, lease_id: LeaseId) -> Order:
        """Keep a lease alive. ABANDON if it is not, or no longer, a lease of `worker` that may count."""
        self._heard[worker] = self._clock.now()
        if lease_id == 0:
            return Order.CONTINUE
        late = self._books.late.get(lease_id)
        if late is not None and late.worker_id == worker:
            return Order.HAND_IN
        active = self._books.active.get(lease_id)
        if active is None or active.lease.worker_id != worker:
            return Order.ABANDON
        active.heard_at = self._attention.now()
        left = self.seconds_to_close()
        return Order.HAND_IN if left is not None and left <= _ABOUT_TO_CLOSE_SECONDS else Order.CONTINUE

    async def release(self, worker: WorkerId, lease_id: LeaseId) -> None:
        """Take a lease back from its worker; its data goes to somebody else. Raises `Refused`."""
        await self.owned(worker, lease_id)
        await self._batches.do(_End(lease_id, LeaseState.RELEASED))

    async def release_all(self, worker: WorkerId) -> None:
        """Take back what `worker` holds by our books: it was killed and started again, or a grant never reached it."""
        if (lease_id := self._books.held.get(worker)) is not None:
            await self._batches.do(_End(lease_id, LeaseState.RELEASED))

    async def expire(self) -> int:
        """Take back the leases that nobody has kept alive; returns how many."""
        oldest = self._attention.now() - self._config.lease.timeout_seconds
        silent = [lease_id for lease_id, active in self._books.active.items() if active.heard_at < oldest]
        await asyncio.gather(*(self._batches.do(_End(lease_id, LeaseState.EXPIRED)) for lease_id in silent))
        if self._line and self.progress.unleased_images:
            self._batches.poke()  # if the ledger could not store what they were to get, it may now
        return len(silent)

    # -- contributions ------------------------------------------------------------------------------------------

    async def owned(self, worker: WorkerId, lease_id: LeaseId) -> Lease:
        """The lease if it is `worker`'s, in whatever state. Raises `Refused`."""
        active = self._books.active.get(lease_id)
        lease = active.lease if active else await self._ledger.run(Ledger.lease, lease_id)
        if lease is None or lease.worker_id != worker:
            raise Refused(Refusal.REFUSAL_UNKNOWN_LEASE, f"lease {lease_id} is not one of yours")
        return lease

    async def receipt(self, lease_id: LeaseId) -> Contribution | None:
        """What was accepted for a lease."""
        if lease_id in self._books.active:
            return None
        return await self._ledger.run(Ledger.contribution_of, lease_id)

    def touch(self, lease_id: LeaseId) -> None:
        """Bytes are arriving: the lease is alive whatever its heartbeats do."""
        if active := self._books.active.get(lease_id):
            active.heard_at = self._attention.now()

    def check_acceptable(self, lease: Lease) -> float:
        """The weight of one image of this lease now. Raises `Refused` when it no longer counts."""
        return self._check_acceptable(self._books, lease)

    def _check_acceptable(self, books: Books, lease: Lease) -> float:
        match lease.state:
            case LeaseState.ACTIVE if lease.lease_id in books.active:
                return 1.0
            case LeaseState.SUBMITTED:
                raise Refused(Refusal.REFUSAL_DUPLICATE, f"lease {lease.lease_id} already has its contribution")
            case LeaseState.EXPIRED | LeaseState.RELEASED:
                raise Refused(
                    Refusal.REFUSAL_LEASE_EXPIRED, f"lease {lease.lease_id} has ended: its data went to others"
                )
        if lease.lease_id in books.late:
            if self._round is None:
                raise Refused(Refusal.REFUSAL_BUSY, "the next round, in which this counts, opens soon", _SOON)
            return self._config.round.late_weight
        raise Refused(
            Refusal.REFUSAL_ROUND_CLOSED, f"round {lease.round_number} has closed without lease {lease.lease_id}"
        )

    async def accept(self, work: Work) -> Contribution:
        """Count a stored contribution, once; what it left undone goes to others. Raises `Refused`."""
        contribution = await self._batches.do(work)
        assert contribution is not None
        return contribution

    # -- a batch ------------------------------------------------------------------------------------------------

    async def _store(self, requests: Sequence[_Request]) -> list[_Outcome]:
        """Decide on `requests`, then on who in the line gets what there is now; store all of it at once."""
        async with self._lock:
            known = await self._look_up(requests)
            draft = self._books.draft()
            outcomes = [self._decide(draft, request, known) for request in requests]
            served = self._serve(draft)
            if draft.is_empty:
                return outcomes
            stored = await self._ledger.run(Ledger.store, draft.changes, draft.pool)
            self._learn(stored.accepted)
            before, self._books = self._books, draft
            for place, lease in zip(served, stored.granted, strict=True):
                draft.add(Active(lease, self._clock.now(), self._attention.now()))
                self._line.give(place, lease)
        for lease_id, state in stored.ended:
            _log.info("lease_ended", lease=lease_id, worker=before.active[lease_id].lease.worker_id, state=state.value)
        if len(served) == MAX_BATCH:
            self._batches.poke()
        self.changed.ring()
        receipts = {receipt.lease_id: receipt for receipt in stored.accepted}
        return [
            receipts[request.lease.lease_id] if isinstance(request, Work) and outcome is None else outcome
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    async def _look_up(self, requests: Sequence[_Request]) -> _Known:
        """What the ledger has of the leases that something comes in for though they are not active."""
        ended = {
            request.lease.lease_id
            for request in requests
            if isinstance(request, Work) and request.lease.lease_id not in self._books.active
        }
        return {
            lease_id: (
                await self._ledger.run(Ledger.contribution_of, lease_id),
                await self._ledger.run(Ledger.lease, lease_id),
            )
            for lease_id in ended
        }

    def _decide(self, draft: Draft, request: _Request, known: _Known) -> _Outcome:
        """Write the decision into `draft`; None for a contribution whose receipt the ledger has yet to make."""
        match request:
            case _Ask(place):
                place.is_ready = True
                held = draft.held.get(place.worker)
                if held is not None and place in self._line:
                    draft.end(held, LeaseState.RELEASED)
                return None
            case _End(lease_id, state):
                draft.end(lease_id, state)
                return None
            case Work():
                try:
                    return self._count_in(draft, request, known)
                except Refused as refused:
                    return refused

    def _count_in(self, draft: Draft, work: Work, known: _Known) -> Contribution | Again | None:
        lease_id, pool = work.lease.lease_id, draft.pool
        if lease_id in draft.active:  # a late one's data has been given back already
            pool = pool.give_back(split_ranges(work.lease.ranges, work.images)[1])
        elif draft.touches(lease_id) or lease_id not in known:
            return Again.AGAIN
        else:
            before, stored = known[lease_id]
            if before is not None:
                return same_or_refused(before, work.sha256)
            assert stored is not None
            work = replace(work, lease=stored)
        weight = self._check_acceptable(draft, work.lease)
        assert self._round is not None
        draft.accept(
            Contribution(
                contribution_id=0,
                lease_id=lease_id,
                worker_id=work.lease.worker_id,
                round_number=self._round.number,
                first_range=work.lease.ranges[0],
                sha256=work.sha256,
                size_bytes=work.size_bytes,
                images=work.images,
                weight=weight * work.images,
                mean_loss=work.mean_loss,
                train_ms=work.train_ms,
                accepted_at_ms=now_ms(),
            ),
            pool,
        )
        self._count(draft.progress, work.images)
        return None

    def _count(self, progress: Progress, images: int) -> None:
        progress.accepted_images += images
        if (
            progress.quorum_at is None
            and progress.accepted_images >= self._config.round.quorum * progress.target_images
        ):
            progress.quorum_at = self._clock.now()

    def _learn(self, accepted: Sequence[Contribution]) -> None:
        """How long leases took, while the books still have them."""
        for receipt in accepted:
            active = self._books.active.get(receipt.lease_id)
            if active is not None and active.granted_at is not None:
                self._paces.learn(
                    receipt.worker_id,
                    receipt.images,
                    trained_seconds=receipt.train_ms / 1000,
                    seconds=self._clock.now() - active.granted_at,
                )

    def _serve(self, draft: Draft) -> list[Place[_Answer]]:
        """Grant leases to the line, in its order, as long as there is work; returns whom the draft's grants are for."""
        served: list[Place[_Answer]] = []
        if self._round is None or self._grants_nothing:
            return served
        for place in self._line:
            left = draft.progress.unleased_images
            if left == 0 or len(served) == MAX_BATCH:
                break
            if not place.is_ready or place.has_declined(self._round.number, left):
                continue
            images = self._quota(draft.progress, place.worker, self._round)
            if images == 0:
                place.decline(self._round.number, left)
                continue
            ranges, pool = draft.pool.take(images, seed=self._config.run.seed, shard_sizes=self._shard_sizes)
            lease = Lease(
                lease_id=LeaseId(0),
                worker_id=place.worker,
                base_version=self._round.number - 1,
                ranges=ranges,
                seed=lease_seed(self._config.run.seed, self._round.number, ranges[0]),
                quota_images=images,
                learning_rate=learning_rate(self._config, self._images_before),
                state=LeaseState.ACTIVE,
                granted_at_ms=now_ms(),
            )
            draft.grant(lease, pool, self._clock.now())
            served.append(place)
        return served

    def _quota(self, progress: Progress, worker: WorkerId, opened: Round) -> int:
        left = self._seconds_to_close(progress)
        demand = Demand(
            target_images=progress.target_images,
            unleased_images=progress.unleased_images,
            seconds_left=self._config.round.max_seconds if left is None else left,
        )
        asker = Asker(self._paces.get(worker), self._devices.get(worker, 1))
        return lease_images_within(self._config, demand, asker, self._fleet_seconds(opened))

    def _fleet_seconds(self, opened: Round) -> float | None:
        """How long the live workers take for the round's target; None if nobody's pace is known."""
        now, fleet = self._clock.now(), self._fleet
        if fleet is None or fleet.round_number != opened.number or now >= fleet.summed_at + _FLEET_SECONDS:
            paces = [pace for live in self.live_workers() if (pace := self._paces.get(live)) is not None]
            seconds = seconds_for(opened.target_images, paces) if paces else None
            fleet = self._fleet = _Fleet(opened.number, seconds, now)
        return fleet.seconds


def lease_seed(run_seed: int, round_number: int, first: ShardRange) -> int:
    """The seed of the lease that starts with `first`: whoever gets the data again in this round gets the same lease."""
    text = f"dah-lease-1\n{run_seed}\n{round_number}\n{first.epoch}\n{first.shard}\n{first.start}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def same_or_refused(before: Contribution, sha256: str) -> Contribution:
    """The receipt again for the same bytes; other bytes for the same lease are refused."""
    if before.sha256 != sha256:
        raise Refused(Refusal.REFUSAL_DUPLICATE, f"lease {before.lease_id} already has another contribution")
    return before


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end even if the caller is cancelled: a client that hangs up must not stop a change half-way."""
    return await asyncio.shield(asyncio.ensure_future(work))
