"""Half of eight volunteers are killed in each of twenty rounds of a real training on digits, against a calm one.

Killed are the first four that get a lease in a round, somewhere in the middle of it; each comes back with its key alone.
All leases are alike, an eighth of a round, and a round closes at its target alone: else the killed would make one round more of
as many images, which lowers this loss, and what death costs would hide behind that.
The losses are held out, at equal accepted images. Samples are counted of all epochs but the last: how often each was trained
into the model, by the ledger, and how often it was computed with, also by those who died over it.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, LifeSection, Spread
from simulator.work import Product

from benchmarks.churn.training import Trained
from benchmarks.figures import Figure
from benchmarks.site import Site, site
from diffusion_at_home.data.order import ShardRange, split_ranges
from diffusion_at_home.rpc import coordinator_pb2 as pb

_WORKERS: Final = 8
_ROUNDS: Final = 20
_PAUSE_SECONDS: Final = 0.5
_BATCH: Final = 16
_RUN: Final = (
    "model.prx.hidden_size=64",
    "model.prx.depth=2",
    "model.text.hidden_size=32",
    f"inner.batch_images={_BATCH}",
    "inner.learning_rate=2e-3",
    "lease.timeout_seconds=20.0",
    "round.quorum=1.0",
    "round.max_seconds=120.0",
    "ema.half_life_images=2000",
    "evaluation.every_images=1000000000",  # the first and the last
    "checkpoint.every_images=1000000000",
    "judging.every_images=0",
    "checkpoint.grid_prompts=['a handwritten three']",
)


class _Half:
    """Real work, in which half of the fleet dies in each round."""

    def __init__(self, fleet: Fleet, trained: Trained, seed: int, *, dying: bool) -> None:
        self.deaths: Counter[int] = Counter()
        """By round."""
        self.images: dict[int, int] = {}
        """Trained in each lease, whatever became of it."""
        self.trained = trained
        self._fleet = fleet
        self._victims = _WORKERS // 2 if dying else 0
        self._rng = random.Random(seed)  # noqa: S311
        self._doomed: dict[int, set[int]] = {}
        self._dead: dict[int, set[int]] = {}

    async def __call__(
        self, number: int, grant: pb.LeaseGrant, wrap_up: asyncio.Event, on_images: Callable[[int], None]
    ) -> Product:
        """See `Work`."""
        doomed, dead = self._doomed.setdefault(grant.round, set()), self._dead.setdefault(grant.round, set())
        dies_at = math.inf
        if number not in doomed and len(doomed) < self._victims:
            doomed.add(number)
            dies_at = self._rng.uniform(0.1, 0.9) * grant.quota_images

        def on_images_and_die(images: int) -> None:
            self.images[grant.lease_id] = images
            on_images(images)
            if images >= dies_at and number not in dead and self._fleet.kill(number):
                dead.add(number)
                self.deaths[grant.round] += 1
                self.trained.forget(number)

        return await self.trained(number, grant, wrap_up, on_images_and_die)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one training."""

    held_out_loss: float
    images: int
    rounds: int
    deaths: tuple[int, ...]
    """In each round."""
    times_trained: tuple[int, ...]
    """Into the model: each sample of each epoch that is over."""
    times_computed: tuple[int, ...]
    """The same samples, also by those who died."""


def half(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    seeds, images = (1, 256) if quick else (3, 1280)
    calm, killed = list[_Outcome](), list[_Outcome]()
    for seed in range(seeds):
        steps = images // _WORKERS // _BATCH
        run = (
            *_RUN,
            *(f"lease.{which}_steps={steps}" for which in ("min", "probe", "max")),
            f"run.seed={seed}",
            f"round.images={images}",
            f"run.total_images={_ROUNDS * images}",
            *overrides,
        )
        for dying, outcomes in ((False, calm), (True, killed)):
            with site(*run) as place:
                outcomes.append(_train(place, seed, dying=dying))
            print(f"dying {dying}: {outcomes[-1].held_out_loss:.5f}", file=sys.stderr, flush=True)
    pairs = list(zip(calm, killed, strict=True))
    assert all(one.images == other.images for one, other in pairs)
    return {
        "loss_ratio_half": Figure(tuple(k.held_out_loss / c.held_out_loss for c, k in pairs), "1"),
        "loss_calm_half": Figure(tuple(c.held_out_loss for c in calm), "mean squared velocity error"),
        "rounds_half": Figure(tuple(float(k.rounds) for k in killed), "rounds, closed"),
        "deaths_half": Figure(tuple(float(n) for k in killed for n in k.deaths), "volunteers a round"),
        "times_trained_half": Figure(tuple(float(n) for k in killed for n in k.times_trained), "times a sample"),
        "times_computed_half": Figure(tuple(float(n) for k in killed for n in k.times_computed), "times a sample"),
    }


def _train(place: Site, seed: int, *, dying: bool) -> _Outcome:
    work = asyncio.run(_work(place, seed, dying=dying))
    version = place.newest_version()
    place.await_evaluation(version)
    with place.ledger() as ledger:
        loss = min(found.mean for found in ledger.evaluations() if found.version == version)
        images = ledger.newest_version().images
        leases = place.leases()
        contributions = [c for number in range(1, version + 1) for c in ledger.contributions(number)]
    ranges = {int(lease.lease_id): lease.ranges for lease in leases}
    trained = Counter(
        sample for c in contributions for sample in _samples(split_ranges(ranges[c.lease_id], c.images)[0])
    )
    times_computed = Counter(
        sample for lease, done in work.images.items() for sample in _samples(split_ranges(ranges[lease], done)[0])
    )
    over = max(epoch for epoch, _, _ in times_computed)
    samples = [sample for sample in times_computed if sample[0] < over]
    return _Outcome(
        loss,
        images,
        version,
        tuple(work.deaths[number] for number in range(1, version + 1)),
        tuple(trained[sample] for sample in samples),
        tuple(times_computed[sample] for sample in samples),
    )


async def _work(place: Site, seed: int, *, dying: bool) -> _Half:
    """Until the run is complete."""
    run = await asyncio.to_thread(FoundRun.at, place.url)
    pause = Spread(median=_PAUSE_SECONDS)
    settings = FleetSettings(workers=_WORKERS, seed=seed, retry_ceiling_seconds=1.0, life=LifeSection(pause=pause))
    works: list[_Half] = []

    def make(fleet: Fleet) -> _Half:
        works.append(_Half(fleet, Trained(fleet, place.root / "cache"), seed, dying=dying))
        return works[0]

    fleet = Fleet(run, settings, make)
    try:
        await fleet.work(None)
    finally:
        works[0].trained.close()
    return works[0]


def _samples(ranges: Iterable[ShardRange]) -> Iterator[tuple[int, int, int]]:
    """Epoch, shard, place in the epoch's order of the shard."""
    return ((part.epoch, part.shard, part.start + step) for part in ranges for step in range(part.count))
