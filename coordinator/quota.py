"""How many images a lease is: sized by measured speed, so that all of a round hand in together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from diffusion_at_home.config.run import RunConfig

_TIME_SHARE: Final = 0.9
"""Of the time left to the close, what a lease may plan to train; the rest is for bringing weights up and handing in."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the round still needs, and how long it lasts."""

    target_images: int
    unleased_images: int
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a lease."""

    speed: float | None
    """Images a second; None while not known."""
    devices: int = 1
    """That train together, by the worker's own word."""


def lease_images(config: RunConfig, demand: Demand, asker: Asker, fleet_speeds: Sequence[float]) -> int:
    """Images of the asker's next lease; 0 if it is not worth one.

    Its share of the round is its share of the fleet's speed (`fleet_speeds`, itself included). A worker of unknown
    speed gets a probe of a few steps for each of its devices. Whole batches, between lease.min_steps and as many
    times lease.max_steps as it has devices; what would be left over under one lease is added to this one.
    """
    batch, speed = config.inner.batch_images, asker.speed
    smallest, largest = config.lease.min_steps * batch, config.lease.max_steps * batch * asker.devices
    if speed is None:
        wanted = config.lease.probe_steps * batch * asker.devices
    else:
        share = speed / max(sum(fleet_speeds), speed)
        in_time = int(speed * demand.seconds_left * _TIME_SHARE)
        if in_time < smallest:
            return 0
        wanted = min(round(demand.target_images * share / batch) * batch, in_time // batch * batch)
    images = min(max(wanted, smallest), largest, demand.unleased_images)
    left = demand.unleased_images - images
    if left < smallest and images + left <= largest:
        images += left
    return images if images >= min(smallest, demand.target_images) else 0


class SpeedBook:
    """Images a second of each worker, from grant to receipt: what counts for the round, measured here."""

    def __init__(self) -> None:
        self._speeds: dict[str, float] = {}

    def learn(self, worker: str, images: int, seconds: float) -> None:
        """Average in one finished lease; recent ones count more."""
        measured = images / max(seconds, 1e-3)
        old = self._speeds.get(worker, measured)
        self._speeds[worker] = 0.5 * old + 0.5 * measured

    def suggest(self, worker: str, claimed: float) -> None:
        """Use what a worker says of itself until something is measured."""
        if claimed > 0:
            self._speeds.setdefault(worker, claimed)

    def get(self, worker: str) -> float | None:
        """The worker's speed, None while unknown."""
        return self._speeds.get(worker)
