"""What is dear to make and asked for often: made once, kept for a while, and made for all who ask meanwhile together."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from diffusion_at_home.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """The latest values by key. What a making raises is raised to all who wait for it, and kept for nobody."""

    def __init__(self, make: Callable[[K], Awaitable[V]], *, seconds: float, most: int, clock: Clock) -> None:
        """Each value is kept for so many `seconds`; of `most` values those asked for last."""
        self._make = make
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._values: OrderedDict[K, tuple[float, asyncio.Task[V]]] = OrderedDict()

    async def get(self, key: K) -> V:
        """The value of `key`. Who hangs up leaves the making to the others."""
        found = self._values.get(key)
        if found is None or self._is_over(*found):
            found = (self._clock.now(), asyncio.ensure_future(self._make(key)))
            self._values[key] = found
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return await asyncio.shield(found[1])

    def _is_over(self, since: float, task: asyncio.Task[V]) -> bool:
        """By the time it was asked for: what takes long to make is not older than that."""
        if not task.done():
            return False
        return task.cancelled() or task.exception() is not None or self._clock.now() >= since + self._seconds
