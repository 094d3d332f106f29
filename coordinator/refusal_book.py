"""What was refused, counted for the run and for each worker: a number a worker, day and reason, however often it happens.

A worker here is one whose token the call had: nobody can have another's refusals counted. What is counted in memory is stored now
and then, so that a flood of refused calls is one write; a process that is killed loses what came since the last one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.metrics import Metrics
from coordinator.records import DAY_MS, RefusedCalls, now_ms
from coordinator.refused import Refused
from diffusion_at_home.errors import StorageError
from diffusion_at_home.identity import WorkerId

KEPT_DAYS: Final = 30
"""Today among them. A worker has one row a day and reason at most, so this bounds the table."""

_EVERY_SECONDS: Final = 10.0


class RefusalBook:
    """Of one process."""

    def __init__(self, metrics: Metrics, ledger: LedgerThread, today: Callable[[], int] | None = None) -> None:
        """`today` is the day since 1970, in UTC."""
        self._metrics = metrics
        self._ledger = ledger
        self._today = today or this_day
        self._waiting = Counter[tuple[WorkerId, int, str]]()
        self._forgot_on: int | None = None

    def note(self, call: str, refused: Refused, worker: WorkerId | None) -> None:
        """A call was `refused`; `worker` is whose it was, if that is proven."""
        self._metrics.refusals.labels(call=call, reason=refused.name).inc()
        if worker is not None:
            self._waiting[worker, self._today(), refused.name] += 1

    async def run(self) -> None:
        """Store again and again, for ever."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            await self.store()

    async def store(self) -> None:
        """Store what came since the last time; what cannot be stored now waits for the next one."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, Counter()
        counts = [RefusedCalls(worker, day, reason, calls) for (worker, day, reason), calls in waiting.items()]
        today = self._today()
        try:
            await self._ledger.run(
                Ledger.count_refusals, counts, None if today == self._forgot_on else today - KEPT_DAYS + 1
            )
        except StorageError:  # which the problems name
            self._waiting.update(waiting)
        else:
            self._forgot_on = today


def this_day() -> int:
    """Since 1970, in UTC."""
    return now_ms() // DAY_MS
