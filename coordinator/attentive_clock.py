"""Time in which the coordinator listened: what it was too slow to hear, nobody has failed to say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from diffusion_at_home.clock import Clock

_TICK_SECONDS: Final = 0.05
"""Between two looks at the clock."""

_MOST_SECONDS: Final = 0.5
"""Between two ticks that counts: a loop which is later than that has left calls unread."""


class AttentiveClock:
    """A clock that stands still while the loop does. It shows a stall before anybody has noticed it.

    The silence of a worker is measured on it: while its heartbeats lie unread, its lease has all the time that it had.
    """

    def __init__(self, clock: Clock, on_stall: Callable[[float], None] = lambda _: None) -> None:
        """`on_stall` is told the seconds that did not count."""
        self._clock = clock
        self._on_stall = on_stall
        self._ticked_at = clock.now()
        self._shown = 0.0
        self._late = 0.0

    @property
    def late_seconds(self) -> float:
        """How long a call that comes in waits before anybody reads it: by the latest tick, or by the one that is overdue."""
        return max(self._late, self._clock.now() - self._ticked_at - _TICK_SECONDS)

    def now(self) -> float:
        """See `Clock.now`."""
        return self._shown + min(self._clock.now() - self._ticked_at, _MOST_SECONDS)

    def tick(self) -> None:
        """The loop is listening."""
        shown, ticked_at = self.now(), self._clock.now()
        stalled = ticked_at - self._ticked_at - (shown - self._shown)
        if stalled > 0:
            self._on_stall(stalled)
        self._late = max(0.0, ticked_at - self._ticked_at - _TICK_SECONDS)
        self._shown, self._ticked_at = shown, ticked_at

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            self.tick()
            await asyncio.sleep(_TICK_SECONDS)
