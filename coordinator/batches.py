"""Group commit: what is asked while one batch is being stored is the next one, which has one transaction and one sync."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from diffusion_at_home import events
from diffusion_at_home.errors import SeatLost, StorageError

MAX_BATCH: Final = 256
"""Requests in one transaction: at under half a millisecond each, the next batch waits a tenth of a second at most."""

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")
_log = events.logger("coordinator")


class Again(Enum):
    """An outcome: only the next batch, which sees this one stored, can say."""

    AGAIN = "again"


@dataclass(frozen=True, slots=True)
class _Asked(Generic[RequestT, ResultT]):
    request: RequestT
    outcome: asyncio.Future[ResultT]


class Batches(Generic[RequestT, ResultT]):
    """Runs `store` on one batch after the other, in the order of asking. For one loop.

    `store` returns an outcome for each request: a result, an exception of that request's own, or AGAIN. If it raises, nothing
    is stored: a `StorageError` or `SeatLost` is everybody's, anything else is found out by storing each request by itself, so
    that none fails its neighbours.
    """

    def __init__(self, store: Callable[[Sequence[RequestT]], Awaitable[Sequence[ResultT | Exception | Again]]]) -> None:
        self._store = store
        self._asked: deque[_Asked[RequestT, ResultT]] = deque()
        self._poked = False
        self._task: asyncio.Task[None] | None = None

    async def do(self, request: RequestT) -> ResultT:
        """The request's outcome, once its batch is stored. A caller that hangs up stops nothing."""
        asked: _Asked[RequestT, ResultT] = _Asked(request, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._go()
        return await asked.outcome

    def poke(self) -> None:
        """Store one more batch, though it may be empty: there may be something to do that nobody asks for."""
        self._poked = True
        self._go()

    def _go(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._asked or self._poked:
                self._poked = False
                batch = [self._asked.popleft() for _ in range(min(MAX_BATCH, len(self._asked)))]
                again = await self._settle(batch)
                self._asked.extendleft(reversed(again))
        finally:
            self._task = None

    async def _settle(self, batch: Sequence[_Asked[RequestT, ResultT]]) -> list[_Asked[RequestT, ResultT]]:
        """Store a batch and tell everybody; returns those whose turn is the next batch."""
        try:
            outcomes = await self._store([asked.request for asked in batch])
        except Exception as error:  # noqa: BLE001 -- raised again by whoever asked
            if not batch:
                _log.error("batch_failed", error=str(error))
            if len(batch) > 1 and not isinstance(error, (StorageError, SeatLost)):
                return [again for asked in batch for again in await self._settle([asked])]
            outcomes = [error] * len(batch)
        again = []
        for asked, outcome in zip(batch, outcomes, strict=True):
            if outcome is Again.AGAIN:
                again.append(asked)
            elif asked.outcome.done():
                continue  # its caller has hung up
            elif isinstance(outcome, Exception):
                asked.outcome.set_exception(outcome)
            else:
                asked.outcome.set_result(outcome)
        return again
