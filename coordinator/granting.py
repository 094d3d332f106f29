"""Decides who in the line gets which lease: sized by the worker's pace, with the data that comes next. Stores nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from coordinator.batches import MAX_BATCH
from coordinator.books import Draft
from coordinator.closing import Progress, closes_at
from coordinator.data_pool import DataPool
from coordinator.fleet import Fleet
from coordinator.quota import Demand, lease_images_within
from coordinator.records import Lease, LeaseId, LeaseState, Round, now_ms
from coordinator.waiting import Place, WaitingLine
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.outer.schedule import learning_rate

_UPCOMING: Final = 4
"""Shards that a grant announces."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class LiveRound:
    """The round that is open."""

    opened: Round
    images_before: int
    """Accepted in all rounds before: the learning rate follows them."""


class Granting:
    """Writes grants into drafts."""

    def __init__(self, *, config: RunConfig, shard_sizes: Sequence[int], fleet: Fleet, clock: Clock) -> None:
        self._config = config
        self._shard_sizes = shard_sizes
        self._fleet = fleet
        self._clock = clock
        self._upcoming: tuple[DataPool, list[int]] | None = None

    def serve(self, line: WaitingLine[AnswerT], draft: Draft, live: LiveRound) -> list[Place[AnswerT]]:
        """Grant leases to the line, in its order, as long as there is work; returns whom the draft's grants are for."""
        served: list[Place[AnswerT]] = []
        number, waiting = live.opened.number, line.workers()
        for place in line:
            left = draft.progress.unleased_images
            if left == 0 or len(served) == MAX_BATCH:
                break
            if not place.is_ready or place.has_declined(number, left):
                continue
            images = self._quota(draft.progress, place.worker, self._fleet.seconds_for(live.opened, waiting))
            if images == 0:
                place.decline(number, left)
                continue
            ranges, pool = draft.pool.take(images, seed=self._config.run.seed, shard_sizes=self._shard_sizes)
            draft.grant(self._lease(place.worker, ranges, images, live), pool, self._clock.now())
            served.append(place)
        return served

    def upcoming_shards(self, pool: DataPool) -> list[int]:
        """Indices of the shards that the next leases will probably take from."""
        if self._upcoming is None or self._upcoming[0] is not pool:
            soon, _ = pool.take(2 * max(self._shard_sizes), seed=self._config.run.seed, shard_sizes=self._shard_sizes)
            self._upcoming = pool, list(dict.fromkeys(part.shard for part in soon))[:_UPCOMING]
        return self._upcoming[1]

    def _quota(self, progress: Progress, worker: WorkerId, fleet_seconds: float | None) -> int:
        deadline = closes_at(self._config, progress)
        demand = Demand(
            target_images=progress.target_images,
            unleased_images=progress.unleased_images,
            seconds_left=self._config.round.max_seconds if deadline is None else max(0.0, deadline - self._clock.now()),
        )
        return lease_images_within(self._config, demand, self._fleet.asker(worker), fleet_seconds)

    def _lease(self, worker: WorkerId, ranges: tuple[ShardRange, ...], images: int, live: LiveRound) -> Lease:
        return Lease(
            lease_id=LeaseId(0),
            worker_id=worker,
            base_version=live.opened.number - 1,
            ranges=ranges,
            seed=lease_seed(self._config.run.seed, live.opened.number, ranges[0]),
            quota_images=images,
            learning_rate=learning_rate(self._config, live.images_before),
            state=LeaseState.ACTIVE,
            granted_at_ms=now_ms(),
        )


def lease_seed(run_seed: int, round_number: int, first: ShardRange) -> int:
    """The seed of the lease that starts with `first`: whoever gets the data again in this round gets the same lease."""
    text = f"dah-lease-1\n{run_seed}\n{round_number}\n{first.epoch}\n{first.shard}\n{first.start}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
