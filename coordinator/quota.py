"""How many images a lease is: sized by measured pace, so that all of a round hand in together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_at_home.config.run import RunConfig

_TIME_SHARE: Final = 0.9
"""Of the time left to the close, what a lease may plan to take from grant to receipt; the rest is for what nobody foresees."""

_WORTH_SHARE: Final = 0.05
"""Of a lease, what is not worth a further one, whose delta would take as long to send as that of a whole one."""

_NEWEST_SHARE: Final = 0.5
"""Of the latest lease in what is known of a worker: a machine that gets busy is believed within two leases."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a lease takes a worker: `overhead_seconds` + images / `images_per_second`, from grant to receipt."""

    images_per_second: float
    """While it trains."""
    overhead_seconds: float = 0.0
    """Beside the training: weights and data down, the delta encoded and up. A slow line makes a lease late, not slow."""

    def images_within(self, seconds: float) -> float:
        """Images that it hands in so many seconds after the grant."""
        return self.images_per_second * max(0.0, seconds - self.overhead_seconds)


@dataclass(frozen=True, slots=True)
class Demand:
    """What the round still needs, and how long it lasts."""

    target_images: int
    unleased_images: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a lease."""

    pace: Pace | None
    """None while not known."""
    devices: int = 1
    """That train together, by the worker's own word."""


def lease_images(config: RunConfig, demand: Demand, asker: Asker, fleet: Sequence[Pace]) -> int:
    """Images of the asker's next lease, beside a `fleet` that includes it; see `lease_images_within`."""
    return lease_images_within(config, demand, asker, seconds_for(demand.target_images, fleet) if fleet else None)


def lease_images_within(config: RunConfig, demand: Demand, asker: Asker, fleet_seconds: float | None) -> int:
    """Images of the asker's next lease; 0 if it is not worth one.

    It gets what it hands in by the time at which the whole fleet, itself included, would have handed in the round's target,
    `fleet_seconds` after it began (None: it is the whole fleet). A worker of unknown pace gets a probe of a few steps for
    each of its devices. Whole batches, between lease.min_steps and as many times lease.max_steps as it has devices; what
    would be left over, and is not worth a lease of its own, is added to this one.
    """
    batch, pace = config.inner.batch_images, asker.pace
    smallest, largest = config.lease.min_steps * batch, config.lease.max_steps * batch * asker.devices
    if pace is None:
        wanted = config.lease.probe_steps * batch * asker.devices
    else:
        in_time = int(pace.images_within(demand.seconds_left * _TIME_SHARE))
        if in_time < smallest:
            return 0
        share = pace.images_within(
            seconds_for(demand.target_images, [pace]) if fleet_seconds is None else fleet_seconds
        )
        wanted = min(round(share / batch) * batch, in_time // batch * batch)
    images = min(max(wanted, smallest), largest, demand.unleased_images)
    left = demand.unleased_images - images
    if left < max(smallest, images * _WORTH_SHARE) and images + left <= largest:
        images += left
    return images if images >= min(smallest, demand.target_images) else 0


def seconds_for(images: int, fleet: Sequence[Pace]) -> float:
    """Time after which `fleet`, which starts together and is not empty, has handed in so many images."""
    seconds, speed, late = 0.0, 0.0, 0.0
    for pace in sorted(fleet, key=lambda pace: pace.overhead_seconds):
        if speed and seconds <= pace.overhead_seconds:
            break  # the target is reached before this one hands anything in
        speed += pace.images_per_second
        late += pace.images_per_second * pace.overhead_seconds
        seconds = (images + late) / speed
    return seconds


class PaceBook:
    """What is known of each worker's pace: from grant to receipt as measured here, training by its own word."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def learn(self, worker: str, images: int, *, trained_seconds: float, seconds: float) -> None:
        """Average in a finished lease that took `seconds`, of which the worker says it trained `trained_seconds`."""
        trained = min(max(trained_seconds, 1e-3), seconds)
        measured = Pace(images / max(trained, 1e-3), seconds - trained)
        old = self._paces.get(worker, measured)
        self._paces[worker] = Pace(
            _average(old.images_per_second, measured.images_per_second),
            _average(old.overhead_seconds, measured.overhead_seconds),
        )

    def suggest(self, worker: str, claimed_speed: float) -> None:
        """Use what a worker says of its speed (images a second) until something is measured."""
        if claimed_speed > 0:
            self._paces.setdefault(worker, Pace(claimed_speed))

    def get(self, worker: str) -> Pace | None:
        """The worker's pace, None while unknown."""
        return self._paces.get(worker)


def _average(old: float, new: float) -> float:
    return (1 - _NEWEST_SHARE) * old + _NEWEST_SHARE * new
