"""The one thread that owns the ledger: transactions run one after another, and the loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Concatenate, Final, ParamSpec, TypeVar

from coordinator.ledger import Ledger
from coordinator.problems import Problems
from diffusion_at_home.errors import StorageError

P = ParamSpec("P")
T = TypeVar("T")

_SEAT_SECONDS: Final = 1.0
"""Between two looks at a ledger that nobody asks for anything."""


class LedgerThread:
    """Runs the ledger's methods for the loop."""

    def __init__(self, ledger: Ledger, problems: Problems) -> None:
        self._ledger = ledger
        self._problems = problems
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    async def run(self, method: Callable[Concatenate[Ledger, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`method(ledger, ...)` in the thread. Not cancelled half-way: a transaction that has begun is awaited."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, lambda: method(self._ledger, *args, **kwargs))
        with self._problems.writing("ledger", method.__name__):
            return await asyncio.shield(future)

    async def keep_seat(self) -> None:
        """As long as nobody else can be this ledger's coordinator; raises `SeatLost` soon after that."""
        while True:
            with suppress(StorageError):  # it is busy, and the problems name it
                if not await self.run(Ledger.hold_seat):
                    return
            await asyncio.sleep(_SEAT_SECONDS)

    def close(self) -> None:
        """Finish what was begun, then close the ledger."""
        self._executor.shutdown(wait=True)
        self._ledger.close()
