"""Decides who in the line gets which lease: sized by the worker's pace, with the data that comes next. Stores nothing.

Where the run wants that, some get a lease that somebody else has, or had, in the same round: see "A second volunteer" in
ARCHITECTURE.md.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
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

_SMALLEST_SHARE: Final = 0.5
_LARGEST_SHARE: Final = 1.1
"""Of the lease that a worker would have, what it may train again: a size of its own tells it nothing, and it has the time."""

_MOST_TRIES: Final = 32
"""Leases that are looked at for one worker."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class LiveRound:
    """The round that is open."""

    opened: Round
    images_before: int
    """Accepted in all rounds before: the learning rate follows them."""


class Granting:
    """Writes grants into drafts."""

    def __init__(
        self, *, config: RunConfig, shard_sizes: Sequence[int], fleet: Fleet, clock: Clock, chance: random.Random
    ) -> None:
        """`chance` decides which leases are trained again, and by whom: nobody must foresee it."""
        self._chance = chance
        self._config = config
        self._shard_sizes = shard_sizes
        self._fleet = fleet
        self._clock = clock
        self._upcoming: tuple[DataPool, list[int]] | None = None

    def serve(self, line: WaitingLine[AnswerT], draft: Draft, live: LiveRound) -> list[Place[AnswerT]]:
        """Grant leases to the line, in its order, as long as there is work; returns whom the draft's grants are for."""
        served: list[Place[AnswerT]] = []
        number, waiting = live.opened.number, line.workers()
        again_images = self._again_images(draft, waiting)
        for place in line:
            left = draft.progress.unleased_images
            if (left == 0 and not self._may_train_again(draft)) or len(served) == MAX_BATCH:
                break
            if not place.is_ready:
                continue
            fleet_seconds = self._fleet.seconds_for(live.opened, waiting, again_images)
            if (again := self._again(draft, place.worker, fleet_seconds)) is not None:
                draft.grant_second(again)
                served.append(place)
                continue
            if left == 0 or place.has_declined(number, left):
                continue
            images = self._quota(draft.progress, place.worker, fleet_seconds, left)
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

    def _quota(self, progress: Progress, worker: WorkerId, fleet_seconds: float | None, images_left: int) -> int:
        deadline = closes_at(self._config, progress)
        demand = Demand(
            target_images=progress.target_images,
            unleased_images=images_left,
            seconds_left=self._config.round.max_seconds if deadline is None else max(0.0, deadline - self._clock.now()),
        )
        return lease_images_within(self._config, demand, self._fleet.asker(worker), fleet_seconds)

    # -- what is trained again ----------------------------------------------------------------------------------

    def _may_train_again(self, draft: Draft) -> bool:
        """Whether there is anything that a second volunteer could train."""
        return bool(draft.firsts) and draft.second_budget >= draft.progress.min_lease_images

    def _again_images(self, draft: Draft, waiting: Set[WorkerId]) -> int:
        """What the round's leases have to leave room for, as if each worker had one: whole leases that are trained again."""
        budget = draft.second_budget + draft.second_given
        if not budget:
            return 0
        target, num_live = draft.progress.target_images, len(self._fleet.live(waiting))
        again = 0
        for num_again in range(1, num_live):
            images = num_again * target / (num_live - num_again)
            if images + num_again * self._config.inner.batch_images / 2 > budget:  # a lease is rounded to whole batches
                break
            again = int(images)
        return again

    def _again(self, draft: Draft, worker: WorkerId, fleet_seconds: float | None) -> Lease | None:
        """Another's lease of the live round for `worker`, about as large as its own would be; mostly there is none."""
        budget, left = draft.second_budget, draft.progress.unleased_images
        if not self._may_train_again(draft) or self._chance.random() * (budget + left) >= budget:
            return None
        own = self._quota(draft.progress, worker, fleet_seconds, draft.progress.target_images)
        for number in self._chance.sample(list(draft.firsts), min(_MOST_TRIES, len(draft.firsts))):
            first = draft.firsts[number]
            suits = own * _SMALLEST_SHARE <= first.quota_images <= min(own * _LARGEST_SHARE, budget)
            follows = number < 0 or number > draft.newest.get(
                worker, 0
            )  # data from before its last lease would tell it
            if suits and follows and self._fleet.are_apart(worker, first.worker_id):
                again = replace(first, lease_id=LeaseId(0), worker_id=worker, second_of=number)
                return replace(again, state=LeaseState.ACTIVE, granted_at_ms=now_ms())
        return None

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
