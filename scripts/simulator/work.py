"""What a simulated volunteer does with a lease: a seam, so that a benchmark can train for real."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from diffusion_at_home.rpc import coordinator_pb2 as pb
from simulator.deltas import Deltas, Encoded


@dataclass(frozen=True, slots=True)
class Product:
    """What a lease came to."""

    delta: Encoded
    images: int
    """A prefix of the lease; 0 if there was no time for one batch."""
    seconds: float
    mean_loss: float


class Work(Protocol):
    """Trains, or pretends to."""

    async def __call__(
        self, number: int, grant: pb.LeaseGrant, wrap_up: asyncio.Event, on_images: Callable[[int], None]
    ) -> Product:
        """The work of volunteer `number` for `grant`.

        It ends early, with whole batches, when `wrap_up` is set; it may be cancelled at any time, and then leaves nothing
        running. `on_images` is told the images trained so far.
        """


class Pretended:
    """Takes the time that training would, and hands in noise."""

    def __init__(self, deltas: Deltas, *, batch_images: int, images_per_second: Callable[[int], float]) -> None:
        """`images_per_second` of a volunteer by its number; infinite is at once."""
        self._deltas = deltas
        self._batch_images = batch_images
        self._images_per_second = images_per_second

    async def __call__(
        self, number: int, grant: pb.LeaseGrant, wrap_up: asyncio.Event, on_images: Callable[[int], None]
    ) -> Product:
        """See `Work`."""
        speed, started = self._images_per_second(number), time.monotonic()
        images = grant.quota_images
        if math.isfinite(speed):
            with suppress(TimeoutError):
                await asyncio.wait_for(wrap_up.wait(), grant.quota_images / speed)
                trained = (time.monotonic() - started) * speed
                images = min(images, int(trained / self._batch_images) * self._batch_images)
        on_images(images)
        return Product(self._deltas.next(), images, time.monotonic() - started, mean_loss=0.5)
