"""Who works on what: grants leases, keeps them alive, takes them back, accepts what they bring. One round at a time.

Owns the live round's progress, the active leases and the data pool; the ledger holds the same, written first. All
changes happen under one lock and run to their end even when the caller hangs up, so memory and ledger never differ.
Time is monotonic; after a restart every active lease has a whole timeout again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

from coordinator.bell import Bell
from coordinator.closing import CloseReason, Progress, close_reason, closes_at
from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.quota import Asker, Demand, PaceBook, lease_images
from coordinator.records import Contribution, Lease, LeaseId, LeaseState, Round, now_ms
from coordinator.refused import Refused
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

_SOON: Final = timedelta(seconds=1)

T = TypeVar("T")
_log = events.logger("coordinator")


class IdleReason(StrEnum):
    """Why there is no lease now."""

    ROUND_FULL = "round_full"
    CLOSING = "closing"
    DRAINING = "draining"
    COMPLETE = "complete"


class Order(StrEnum):
    """What a heartbeat tells the worker."""

    CONTINUE = "continue"
    HAND_IN = "hand_in"
    ABANDON = "abandon"


@dataclass(slots=True)
class _Active:
    lease: Lease
    granted_at: float | None
    """None if that was before a restart: then nobody knows how long it took."""
    heard_at: float


@dataclass(frozen=True, slots=True)
class Work:
    """A contribution that has been screened and stored, not yet accepted."""

    lease: Lease
    sha256: str
    size_bytes: int
    images: int
    mean_loss: float
    train_ms: int


class Dispatcher:
    """The live round and its leases."""

    def __init__(
        self, *, config: RunConfig, shard_sizes: Sequence[int], ledger: LedgerThread, pool: DataPool, clock: Clock
    ) -> None:
        self.changed = Bell()
        """Rings when there may be work, or a reason to close."""
        self.idle_reason = IdleReason.CLOSING
        """Why nothing is granted while no round is open."""
        self._config = config
        self._shard_sizes = shard_sizes
        self._ledger = ledger
        self._clock = clock
        self._lock = asyncio.Lock()
        self._pool = pool
        self._round: Round | None = None
        self._progress = Progress(0, 0)
        self._images_before = 0
        self._active: dict[LeaseId, _Active] = {}
        self._late: dict[LeaseId, Lease] = {}
        self._heard: dict[WorkerId, float] = {}
        self._devices: dict[WorkerId, int] = {}
        self._paces = PaceBook()

    # -- what the round is --------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """The live round's, or the last one's."""
        return self._progress

    @property
    def _takes_late(self) -> bool:
        return self._config.round.late_weight > 0

    @property
    def round_number(self) -> int | None:
        """The open round."""
        return self._round.number if self._round else None

    def live_workers(self) -> list[WorkerId]:
        """Those heard lately."""
        oldest = self._clock.now() - _LIVE_HEARTBEATS * self._config.lease.heartbeat_seconds
        return [worker for worker, heard_at in self._heard.items() if heard_at >= oldest]

    def speed(self, worker: WorkerId) -> float | None:
        """Images a second while it trains, None while unknown."""
        pace = self._paces.get(worker)
        return None if pace is None else pace.images_per_second

    def seconds_to_close(self) -> float | None:
        """Time until the round closes if nothing more comes in; None while that is not known."""
        deadline = closes_at(self._config.round, self._progress)
        return None if self._round is None or deadline is None else max(0.0, deadline - self._clock.now())

    def close_reason(self) -> CloseReason | None:
        """Why the round should close now, or None."""
        return close_reason(self._config.round, self._progress, self._clock.now()) if self._round else None

    def upcoming_shards(self) -> list[int]:
        """Indices of the shards that the next leases will probably take from."""
        soon, _ = self._pool.take(2 * max(self._shard_sizes), seed=self._config.run.seed, shard_sizes=self._shard_sizes)
        return list(dict.fromkeys(part.shard for part in soon))[:_UPCOMING]

    # -- the life of a round ------------------------------------------------------------------------------------

    async def open(self, opened: Round, *, images_before: int, is_new: bool) -> None:
        """Start granting leases of `opened`; one that was open before a restart goes on with what it had."""
        async with self._lock:
            if is_new:
                await self._ledger.run(Ledger.open_round, opened)
            accepted = await self._ledger.run(Ledger.contributions, opened.number)
            leases = await self._ledger.run(Ledger.active_leases)
            missed = await self._ledger.run(Ledger.missed_leases, opened.number - 2) if self._takes_late else []
            now = self._clock.now()
            self._active = {lease.lease_id: _Active(lease, None, now) for lease in leases}
            self._set_late(missed)
            smallest = self._config.lease.min_steps * self._config.inner.batch_images
            self._progress = Progress(opened.target_images, smallest)
            self._progress.leased_images = sum(lease.quota_images for lease in leases)
            self._progress.started_at = now if leases or accepted else None
            self._round, self._images_before = opened, images_before
            self._heard = {worker: self._heard[worker] for worker in self.live_workers()}
            self._devices = {worker: self._devices.get(worker, 1) for worker in self._heard}
            for contribution in accepted:
                self._count(contribution.images)
        _log.info("round_opened", round=opened.number, target_images=opened.target_images, leases=len(leases))
        self.changed.ring()

    async def close(self, reason: CloseReason) -> None:
        """Fix the round's contributions; leases that are still out have missed it."""
        await _finish(self._close(reason))

    async def _close(self, reason: CloseReason) -> None:
        async with self._lock:
            assert self._round is not None
            missed = [active.lease for active in self._active.values()]
            pool = self._pool
            for lease in missed:
                pool = pool.give_back(lease.ranges)
            await self._ledger.run(
                Ledger.close_round, self._round.number, reason.value, [lease.lease_id for lease in missed], pool
            )
            self._pool, self._active = pool, {}
            self._set_late(missed)
            accepted = self._progress.accepted_images
            _log.info(
                "round_closed", round=self._round.number, reason=reason.value, images=accepted, missed=len(missed)
            )
            self._round = None
        self.changed.ring()

    def _set_late(self, missed: Sequence[Lease]) -> None:
        """Remember what missed the last round and may still count in the next."""
        self._late = {lease.lease_id: lease for lease in missed} if self._takes_late else {}

    async def expect_late(self, number: int) -> None:
        """After a restart between two rounds: what missed round `number` may still count in the next."""
        self._set_late(await self._ledger.run(Ledger.missed_leases, number - 1) if self._takes_late else [])

    def expected(self) -> set[LeaseId]:
        """The leases whose contributions may still count."""
        return {*self._active, *self._late}

    def drain(self) -> None:
        """Grant nothing more. That a run is complete stays the reason: workers that wait leave instead of waiting on."""
        if self.idle_reason is not IdleReason.COMPLETE:
            self.idle_reason = IdleReason.DRAINING
        self.changed.ring()

    # -- leases -------------------------------------------------------------------------------------------------

    def greet(self, worker: WorkerId, claimed_speed: float, devices: int = 1) -> None:
        """Note that a worker is there, and what it says of its speed and its devices."""
        self._heard[worker] = self._clock.now()
        self._devices[worker] = devices
        self._paces.suggest(worker, claimed_speed)

    async def grant(self, worker: WorkerId) -> Lease | IdleReason:
        """A lease of the live round for `worker`, or why there is none."""
        return await _finish(self._grant(worker))

    async def _grant(self, worker: WorkerId) -> Lease | IdleReason:
        async with self._lock:
            if self._round is None or self.idle_reason is IdleReason.DRAINING:
                return self.idle_reason
            images = self._quota(worker)
            if images == 0:
                return IdleReason.ROUND_FULL
            ranges, pool = self._pool.take(images, seed=self._config.run.seed, shard_sizes=self._shard_sizes)
            draft = Lease(
                lease_id=LeaseId(0),
                worker_id=worker,
                base_version=self._round.number - 1,
                ranges=ranges,
                seed=lease_seed(self._config.run.seed, self._round.number, ranges[0]),
                quota_images=images,
                learning_rate=learning_rate(self._config, self._images_before),
                state=LeaseState.ACTIVE,
                granted_at_ms=now_ms(),
            )
            lease = await self._ledger.run(Ledger.grant, draft, pool)
            now = self._clock.now()
            self._pool = pool
            self._active[lease.lease_id] = _Active(lease, now, now)
            self._progress.leased_images += images
            if self._progress.started_at is None:
                self._progress.started_at = now
            return lease

    def _quota(self, worker: WorkerId) -> int:
        if self._progress.unleased_images == 0:  # the usual answer while many wait: it must be cheap
            return 0
        left = self.seconds_to_close()
        demand = Demand(
            target_images=self._progress.target_images,
            unleased_images=self._progress.unleased_images,
            seconds_left=self._config.round.max_seconds if left is None else left,
        )
        known = [pace for live in self.live_workers() if (pace := self._paces.get(live)) is not None]
        asker = Asker(self._paces.get(worker), self._devices.get(worker, 1))
        return lease_images(self._config, demand, asker, known)

    def heartbeat(self, worker: WorkerId, lease_id: LeaseId) -> Order:
        """Keep a lease alive. ABANDON if it is not, or no longer, a lease of `worker` that may count."""
        now = self._clock.now()
        self._heard[worker] = now
        if lease_id == 0:
            return Order.CONTINUE
        late = self._late.get(lease_id)
        if late is not None and late.worker_id == worker:
            return Order.HAND_IN
        active = self._active.get(lease_id)
        if active is None or active.lease.worker_id != worker:
            return Order.ABANDON
        active.heard_at = now
        left = self.seconds_to_close()
        return Order.HAND_IN if left is not None and left <= _ABOUT_TO_CLOSE_SECONDS else Order.CONTINUE

    async def release(self, worker: WorkerId, lease_id: LeaseId) -> None:
        """Take a lease back from its worker; its data goes to somebody else. Raises `Refused`."""
        await self.owned(worker, lease_id)
        await _finish(self._end(lease_id, LeaseState.RELEASED))

    async def release_all(self, worker: WorkerId) -> None:
        """Take back what `worker` holds by our books: it was killed and started again, or a grant never reached it."""
        for lease_id in [held for held, active in self._active.items() if active.lease.worker_id == worker]:
            await _finish(self._end(lease_id, LeaseState.RELEASED))

    async def expire(self) -> int:
        """Take back the leases that nobody has kept alive; returns how many."""
        oldest = self._clock.now() - self._config.lease.timeout_seconds
        silent = [lease_id for lease_id, active in self._active.items() if active.heard_at < oldest]
        for lease_id in silent:
            await _finish(self._end(lease_id, LeaseState.EXPIRED))
        return len(silent)

    async def _end(self, lease_id: LeaseId, state: LeaseState) -> None:
        async with self._lock:
            active = self._active.get(lease_id)
            if active is None:
                return  # handed in or missed while we waited for the lock
            pool = self._pool.give_back(active.lease.ranges)
            await self._ledger.run(Ledger.end_lease, lease_id, state, pool)
            self._pool = pool
            del self._active[lease_id]
            self._progress.leased_images -= active.lease.quota_images
            if self._progress.accepted_images == 0 and not self._active:
                self._progress.started_at = None  # everybody has left: the clock waits for the next first lease
            _log.info("lease_ended", lease=lease_id, worker=active.lease.worker_id, state=state.value)
        self.changed.ring()

    # -- contributions ------------------------------------------------------------------------------------------

    async def owned(self, worker: WorkerId, lease_id: LeaseId) -> Lease:
        """The lease if it is `worker`'s, in whatever state. Raises `Refused`."""
        active = self._active.get(lease_id)
        lease = active.lease if active else await self._ledger.run(Ledger.lease, lease_id)
        if lease is None or lease.worker_id != worker:
            raise Refused(Refusal.REFUSAL_UNKNOWN_LEASE, f"lease {lease_id} is not one of yours")
        return lease

    def touch(self, lease_id: LeaseId) -> None:
        """Bytes are arriving: the lease is alive whatever its heartbeats do."""
        if active := self._active.get(lease_id):
            active.heard_at = self._clock.now()

    def check_acceptable(self, lease: Lease) -> float:
        """The weight of one image of this lease now. Raises `Refused` when it no longer counts."""
        match lease.state:
            case LeaseState.ACTIVE if lease.lease_id in self._active:
                return 1.0
            case LeaseState.SUBMITTED:
                raise Refused(Refusal.REFUSAL_DUPLICATE, f"lease {lease.lease_id} already has its contribution")
            case LeaseState.EXPIRED | LeaseState.RELEASED:
                raise Refused(
                    Refusal.REFUSAL_LEASE_EXPIRED, f"lease {lease.lease_id} has ended: its data went to others"
                )
        if lease.lease_id in self._late:
            if self._round is None:
                raise Refused(Refusal.REFUSAL_BUSY, "the next round, in which this counts, opens soon", _SOON)
            return self._config.round.late_weight
        raise Refused(
            Refusal.REFUSAL_ROUND_CLOSED, f"round {lease.round_number} has closed without lease {lease.lease_id}"
        )

    async def accept(self, work: Work) -> Contribution:
        """Count a stored contribution, once; what it left undone goes to others. Raises `Refused`."""
        return await _finish(self._accept(work))

    async def _accept(self, work: Work) -> Contribution:
        async with self._lock:
            active = self._active.get(work.lease.lease_id)
            if active is None:
                before = await self._ledger.run(Ledger.contribution_of, work.lease.lease_id)
                if before is not None:
                    return same_or_refused(before, work.sha256)
                stored = await self._ledger.run(Ledger.lease, work.lease.lease_id)
                assert stored is not None
                work = replace(work, lease=stored)
            weight = self.check_acceptable(work.lease)
            assert self._round is not None
            draft = Contribution(
                contribution_id=0,
                lease_id=work.lease.lease_id,
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
            )
            pool = self._pool
            if active is not None:  # a late one's data has been given back already
                pool = pool.give_back(split_ranges(work.lease.ranges, work.images)[1])
            contribution = await self._ledger.run(Ledger.accept, draft, pool)
            self._pool = pool
            if active is not None:
                del self._active[work.lease.lease_id]
                self._progress.leased_images -= work.lease.quota_images
                if active.granted_at is not None:
                    self._paces.learn(
                        work.lease.worker_id,
                        work.images,
                        trained_seconds=work.train_ms / 1000,
                        seconds=self._clock.now() - active.granted_at,
                    )
            self._late.pop(work.lease.lease_id, None)
            self._count(work.images)
        self.changed.ring()
        return contribution

    def _count(self, images: int) -> None:
        progress = self._progress
        progress.accepted_images += images
        if (
            progress.quorum_at is None
            and progress.accepted_images >= self._config.round.quorum * progress.target_images
        ):
            progress.quorum_at = self._clock.now()


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
