"""Who works on what: grants leases, keeps them alive, takes them back, accepts what they bring. One round at a time.

Owns the live round's books: its progress, the active leases and the data pool; the ledger holds the same, written first. What
is asked while the ledger stores is decided next, on a draft of the books, all of it in one transaction: the draft becomes
the books once it is stored, and is dropped if it cannot be. No caller that hangs up stops a change half-way.

What is decided is elsewhere: who gets which lease in `granting`, whether a contribution counts in `hand_in`.

Who asks for work while there is none stands in line, and gets a lease out of the very batch in which work turns up.
Time is monotonic; after a restart every active lease has a whole timeout again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from coordinator.batches import MAX_BATCH, Again, Batches
from coordinator.bell import Bell
from coordinator.books import Active, Books, Draft
from coordinator.closing import CloseReason, Progress, close_reason, closes_at
from coordinator.data_pool import DataPool
from coordinator.fleet import Fleet, Origin
from coordinator.granting import Granting, LiveRound
from coordinator.hand_in import Known, Reception, Work, count_in, image_weight
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Contribution, Fault, Lease, LeaseId, LeaseState, Round, Verdict
from coordinator.refused import Refused
from coordinator.waiting import Place, WaitingLine
from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.order import ShardRange, split_ranges
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

_ABOUT_TO_CLOSE_SECONDS: Final = 1.0
"""Left when a heartbeat orders to hand in; before, the worker plans by the announced time and trains on."""

_SILENCE_SECONDS: Final = 1.0
"""Between two looks whether a worker has fallen silent."""

_UNKNOWN_ORIGIN: Final = Origin()

T = TypeVar("T")
_log = events.logger("coordinator")


class IdleReason(StrEnum):
    """Why there is no lease now."""

    ROUND_FULL = "round_full"
    CLOSING = "closing"
    DRAINING = "draining"
    """The operator wants nothing more to be granted."""
    COMPLETE = "complete"
    STOPPING = "stopping"
    """This process is about to end."""


class Order(StrEnum):
    """What a heartbeat tells the worker."""

    CONTINUE = "continue"
    HAND_IN = "hand_in"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True)
class AtWork:
    """A worker that is there, for people."""

    worker: WorkerId
    images_per_second: float | None
    """While it trains; None while unknown."""
    silent_seconds: float
    """Since it was heard."""
    lease: Lease | None
    waits: bool
    """In line for a lease."""


_Answer = Lease | IdleReason


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
        chance: random.Random,
    ) -> None:
        """`attention` is the clock by which workers are silent; `clock` tells everything else; `chance` is for `Granting`."""
        self.changed = Bell()
        """Rings when there may be a reason to close."""
        self._config = config
        self._ledger = ledger
        self._clock = clock
        self._attention = attention
        self._lock = asyncio.Lock()
        self._books = Books(pool, Progress(0, 0))
        self._live: LiveRound | None = None
        self._idle_reason = IdleReason.CLOSING
        self._draining = False
        self.drain_note = ""
        """The operator's words on why nothing is granted."""
        self._line = WaitingLine[_Answer](IdleReason.ROUND_FULL)
        self._told: set[WorkerId] = set()
        self._batches = Batches[_Request, _Result](self._store)
        self._fleet = Fleet(heartbeat_seconds=config.lease.heartbeat_seconds, clock=clock)
        self._granting = Granting(config=config, shard_sizes=shard_sizes, fleet=self._fleet, clock=clock, chance=chance)

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
    def is_draining(self) -> bool:
        """Whether the operator wants nothing more to be granted."""
        return self._draining

    @property
    def num_waiting(self) -> int:
        """Workers in the line."""
        return len(self._line)

    @property
    def round_number(self) -> int | None:
        """The open round."""
        return self._live.opened.number if self._live else None

    @property
    def _takes_late(self) -> bool:
        return self._config.round.late_weight > 0

    @property
    def _reception(self) -> Reception:
        return Reception(self.round_number, self._config.round.late_weight)

    def live_workers(self) -> list[WorkerId]:
        """Those heard lately, and those that wait."""
        return self._fleet.live(self._line.workers())

    def speed(self, worker: WorkerId) -> float | None:
        """Images a second while it trains, None while unknown."""
        return self._fleet.speed(worker)

    def at_work(self) -> list[AtWork]:
        """The live workers, and what each has."""
        held, active, waiting = self._books.held, self._books.active, self._line.workers()
        return [
            AtWork(
                worker=worker,
                images_per_second=self._fleet.speed(worker),
                silent_seconds=self._fleet.silent_seconds(worker),
                lease=active[held[worker]].lease if worker in held else None,
                waits=worker in waiting,
            )
            for worker in self.live_workers()
        ]

    def seconds_to_close(self) -> float | None:
        """Time until the round closes if nothing more comes in; None while that is not known."""
        deadline = closes_at(self._config, self.progress)
        return None if self._live is None or deadline is None else max(0.0, deadline - self._clock.now())

    def close_reason(self) -> CloseReason | None:
        """Why the round should close now, or None."""
        if self._live is None:
            return None
        return close_reason(self._config, self.progress, self._clock.now(), draining=self._draining)

    def upcoming_shards(self) -> list[int]:
        """Indices of the shards that the next leases will probably take from."""
        return self._granting.upcoming_shards(self._books.pool)

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
            books.progress.second_images = sum(lease.quota_images for lease in leases if lease.is_second)
            books.progress.leased_images = sum(lease.quota_images for lease in leases if not lease.is_second)
            books.progress.started_at = self._clock.now() if leases or accepted else None
            for contribution in accepted:
                if contribution.weight > 0:
                    self._count(books.progress, contribution.images)
            if is_new:  # else what was left for it is forgotten
                books.second_budget = self._second_budget(opened)
            self._books = books
            self._set_late(missed)
            self._live = LiveRound(opened, images_before)
            self._fleet.forget_all_but_live(self._line.workers())
        _log.info("round_opened", round=opened.number, target_images=opened.target_images, leases=len(leases))
        self._batches.poke()  # for those in line
        self.changed.ring()

    async def close(self, reason: CloseReason) -> None:
        """Fix the round's contributions; leases that are still out have missed it."""
        await _finish(self._close(reason))

    async def _close(self, reason: CloseReason) -> None:
        async with self._lock:
            assert self._live is not None
            number = self._live.opened.number
            missed = [active.lease for active in self._books.active.values()]
            out_of_pool = [lease for lease in missed if not lease.is_second]
            pool = self._books.pool.give_back([part for lease in out_of_pool for part in lease.ranges])
            goes_back = reason is CloseReason.ROLLBACK  # then what started from the weights that are left never counts
            state = LeaseState.EXPIRED if goes_back else LeaseState.MISSED
            out = [lease.lease_id for lease in missed]
            await self._ledger.run(Ledger.close_round, number, reason.value, out, pool, state=state)
            self._books = Books(pool, self.progress, second_budget=self._books.second_budget)
            self._set_late([] if goes_back else missed)
            accepted = self.progress.accepted_images
            _log.info("round_closed", round=number, reason=reason.value, images=accepted, missed=len(missed))
            self._live = None
        self.changed.ring()

    async def count(self, verdicts: Sequence[Verdict], images: Mapping[LeaseId, int]) -> None:
        """Store how a closed round's contributions count; the data of those that do not is trained again.

        `images` are what each lease handed in.
        """
        await _finish(self._count_round(verdicts, images))

    async def _count_round(self, verdicts: Sequence[Verdict], images: Mapping[LeaseId, int]) -> None:
        async with self._lock:
            undone: list[ShardRange] = []
            for verdict in verdicts:
                lease = (
                    await self._ledger.run(Ledger.lease, verdict.lease_id) if verdict.fault is not Fault.NONE else None
                )
                if lease is None or lease.is_second:
                    continue
                if lease.round_number == verdict.round_number:  # a late one's went back already
                    undone += split_ranges(lease.ranges, images[lease.lease_id])[0]
            pool = self._books.pool.give_back(undone)
            await self._ledger.run(Ledger.add_verdicts, verdicts, pool)
            self._books.pool = pool

    def _set_late(self, missed: Sequence[Lease]) -> None:
        """Remember what missed the last round and may still count in the next."""
        out = {lease.lease_id: lease for lease in missed if not lease.is_second}
        self._books.late = out if self._takes_late else {}

    def _second_budget(self, opened: Round) -> float:
        """What second volunteers may train from now on: what they have not yet had of earlier rounds, of one round at most."""
        earned = self._config.audit.second_volunteer_share * opened.target_images
        return min(self._books.second_budget + earned, opened.target_images)

    async def expect_late(self, number: int) -> None:
        """After a restart between two rounds: what missed round `number` may still count in the next."""
        self._set_late(await self._ledger.run(Ledger.missed_leases, number - 1) if self._takes_late else [])

    async def drain(self, *, draining: bool, note: str = "") -> None:
        """Grant nothing more, and tell so those who wait, with the operator's `note`; or grant again."""
        async with self._lock:  # a batch that is being stored may still grant
            self._draining, self.drain_note = draining, note
            if draining:
                self._line.send_away(IdleReason.DRAINING)
        self._batches.poke()  # for those in line
        self.changed.ring()

    def complete(self) -> None:
        """The run has its images: workers that wait leave."""
        self._told |= self._line.workers()
        self._send_away(IdleReason.COMPLETE)

    async def all_told(self) -> None:
        """Wait until each worker that was there lately has heard that the run is complete, or has fallen silent."""
        while set(self.live_workers()) - self._told:
            await self.changed.wait(_SILENCE_SECONDS)

    def stop(self) -> None:
        """Grant nothing more. That a run is complete stays the reason: workers that wait leave instead of coming back."""
        if self._idle_reason is not IdleReason.COMPLETE:
            self._send_away(IdleReason.STOPPING)

    def _send_away(self, reason: IdleReason) -> None:
        self._idle_reason = reason
        self._line.send_away(reason)
        self.changed.ring()

    # -- leases -------------------------------------------------------------------------------------------------

    def greet(self, worker: WorkerId, claimed_speed: float, devices: int = 1, origin: Origin = _UNKNOWN_ORIGIN) -> None:
        """Note that a worker is there, where, and what it says of its speed and its devices."""
        self._fleet.greet(worker, claimed_speed, devices, origin)

    async def lease(self, worker: WorkerId, seconds: float) -> Lease | IdleReason:
        """A lease of the live round for `worker`, or why there is none so many seconds later. What it holds goes back."""
        if self._grants_nothing:
            if self._idle_reason is IdleReason.COMPLETE:
                self._told.add(worker)
                self.changed.ring()
            return self._idle_reason
        with self._line.wait(worker) as place:
            await self._batches.do(_Ask(place))
            if not place.answer.done() and seconds > 0:
                await asyncio.wait([place.answer], timeout=seconds)
        self._fleet.heard(worker)
        if place.answer.done():
            return place.answer.result()
        if self._grants_nothing:
            return self._idle_reason
        if self._draining:
            return IdleReason.DRAINING
        return IdleReason.CLOSING if self._live is None else IdleReason.ROUND_FULL

    async def grant(self, worker: WorkerId) -> Lease | IdleReason:
        """The same without waiting."""
        return await self.lease(worker, 0.0)

    @property
    def _grants_nothing(self) -> bool:
        return self._idle_reason in (IdleReason.COMPLETE, IdleReason.STOPPING)

    def heartbeat(self, worker: WorkerId, lease_id: LeaseId) -> Order:
        """Keep a lease alive. ABANDON if it is not, or no longer, a lease of `worker` that may count."""
        self._fleet.heard(worker)
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

    def touch(self, lease_id: LeaseId) -> None:
        """Bytes are arriving: the lease is alive whatever its heartbeats do."""
        if active := self._books.active.get(lease_id):
            active.heard_at = self._attention.now()

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

    def expected(self) -> set[LeaseId]:
        """The leases whose contributions may still count."""
        return {*self._books.active, *self._books.late}

    def may_count(self, lease_id: LeaseId) -> bool:
        """Whether the lease is one of the `expected`."""
        return lease_id in self._books.active or lease_id in self._books.late

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

    async def newest_residual(self, worker: WorkerId) -> str:
        """What the last contribution of `worker` left, as it has committed to it."""
        return await self._ledger.run(Ledger.newest_residual, worker)

    def check_acceptable(self, lease: Lease) -> None:
        """Raises `Refused` when `lease` no longer counts."""
        image_weight(self._books, lease, self._reception)

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
            draft.number(stored.granted)
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

    async def _look_up(self, requests: Sequence[_Request]) -> Known:
        """What the ledger has of what comes in."""
        coming = [request for request in requests if isinstance(request, Work)]
        ended = {work.lease.lease_id for work in coming if work.lease.lease_id not in self._books.active}
        committed = {work.lease.worker_id for work in coming if work.residual_after}
        return Known(
            ended={
                lease_id: (
                    await self._ledger.run(Ledger.contribution_of, lease_id),
                    await self._ledger.run(Ledger.lease, lease_id),
                )
                for lease_id in ended
            },
            residuals={worker: await self.newest_residual(worker) for worker in committed},
        )

    def _decide(self, draft: Draft, request: _Request, known: Known) -> _Outcome:
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
                    outcome = count_in(draft, request, known, self._reception)
                except Refused as refused:
                    return refused
                if outcome is None and not request.lease.is_second:
                    self._count(draft.progress, request.images)
                return outcome

    def _serve(self, draft: Draft) -> list[Place[_Answer]]:
        """Whom the draft's grants are for."""
        if self._live is None or self._draining or self._grants_nothing:
            return []
        return self._granting.serve(self._line, draft, self._live)

    def _count(self, progress: Progress, images: int) -> None:
        progress.count(images, quorum=self._config.round.quorum, now=self._clock.now())

    def _learn(self, accepted: Sequence[Contribution]) -> None:
        """How long leases took, while the books still have them."""
        for receipt in accepted:
            active = self._books.active.get(receipt.lease_id)
            if active is not None and active.granted_at is not None:
                self._fleet.learn(receipt, self._clock.now() - active.granted_at)


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end even if the caller is cancelled: a client that hangs up must not stop a change half-way."""
    return await asyncio.shield(asyncio.ensure_future(work))
