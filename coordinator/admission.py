"""Who may come in now, and when the others should come back: as if they stood in line, and never all at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from coordinator.callers import Addresses, PlacesPerCaller, RatePerCaller
from coordinator.refused import Refused
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.run import ServerSection
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

_SOONEST: Final = timedelta(seconds=0.25)
_LATEST: Final = timedelta(minutes=1)
"""Even if there are more: whoever comes back too early is told anew, and whoever comes back too late has lost time."""

_SPREAD: Final = 0.5
"""Of a wait, what chance adds at most: those who were turned away together must not return together."""

_MOST_LATE_SECONDS: Final = 0.05
"""That a call may wait to be read before those that carry much are turned away."""

_FEW: Final = 16
"""Places that there are all the same: enough to keep the disk and the cores busy."""

_LINES_PER_SECOND: Final = 20

_MOST_OPEN_PAGES: Final = 16
"""Of one address that may be told what moves."""

_NEWEST_SHARE: Final = 0.1
"""Of the latest visit in how long one takes."""


class Line:
    """Those who were turned away, who are let in at a rate: their number ahead over that rate is when to come back."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._ahead = 0.0
        self._since = clock.now()

    def come_back(self, per_second: float) -> timedelta:
        """When one more should, if so many are let in a second."""
        now = self._clock.now()
        self._ahead = max(0.0, self._ahead - (now - self._since) * per_second) + 1
        self._since = now
        wait = timedelta(seconds=self._ahead / per_second)
        return self.spread(min(max(wait, _SOONEST), _LATEST))

    def spread(self, wait: timedelta) -> timedelta:
        """`wait`, or up to half as much again, by chance."""
        return wait * (1 + _SPREAD * self._chance.random())


class Rate:
    """So many a second on average, and a second's worth at once."""

    def __init__(self, per_second: float, clock: Clock, chance: random.Random) -> None:
        self._per_second = per_second
        self._clock = clock
        self._line = Line(clock, chance)
        self._left = per_second
        self._since = clock.now()

    def has_room(self) -> bool:
        """Let one more in, if that is not too many."""
        now = self._clock.now()
        self._left = min(self._per_second, self._left + (now - self._since) * self._per_second)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def enter(self, full: str) -> None:
        """Let one more in. Raises `Refused` with the sentence `full`, and when to come back, if that is too many."""
        if not self.has_room():
            raise Refused(Refusal.REFUSAL_BUSY, full, self._line.come_back(self._per_second))


class Places:
    """So many at once; and while the coordinator is behind with its calls, few, so that heartbeats do not wait."""

    def __init__(
        self,
        number: int,
        clock: Clock,
        chance: random.Random,
        late_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`late_seconds` is how long a call waits to be read now."""
        self._number = number
        self._late_seconds = late_seconds
        self._clock = clock
        self._line = Line(clock, chance)
        self._num_taken = 0
        self._mean_seconds = 1.0

    @property
    def number(self) -> int:
        """Of all places."""
        return self._number

    @property
    def num_taken(self) -> int:
        """Of them."""
        return self._num_taken

    @contextmanager
    def taken(self, full: str) -> Iterator[None]:
        """A place within. Raises `Refused` with the sentence `full` if there is none, and when there will be one.

        How long a visit took of late says how soon places come free.
        """
        behind = self._late_seconds() > _MOST_LATE_SECONDS
        if self._num_taken >= (min(_FEW, self._number) if behind else self._number):
            wait = self._line.come_back(self._number / max(self._mean_seconds, 1e-3))
            raise Refused(Refusal.REFUSAL_BUSY, full, wait)
        self._num_taken += 1
        entered_at = self._clock.now()
        try:
            yield
        finally:
            self._num_taken -= 1
            self._mean_seconds += _NEWEST_SHARE * (self._clock.now() - entered_at - self._mean_seconds)


@dataclass(frozen=True, slots=True)
class Admission:
    """The doors of one coordinator."""

    joins: Rate
    waiting: Line
    """Of those who find no place to wait for work."""
    uploads: Places
    downloads: Places
    refusal_lines: Rate
    """Of the log: all refusals are counted, and no flood fills the disk."""
    addresses: Addresses
    joins_of: RatePerCaller
    """By address."""
    calls_of: RatePerCaller
    """By worker."""
    uploads_of: PlacesPerCaller
    """By address."""
    downloads_of: PlacesPerCaller
    """By address."""
    listeners_of: PlacesPerCaller
    """Open pages, by address."""

    @classmethod
    def of(
        cls, server: ServerSection, clock: Clock, chance: random.Random, late_seconds: Callable[[], float]
    ) -> Admission:
        """As the run's config wants them; `late_seconds` as `Places` has it, for what comes in."""
        return cls(
            joins=Rate(server.max_joins_per_second, clock, chance),
            waiting=Line(clock, chance),
            uploads=Places(server.max_uploads, clock, chance, late_seconds),
            downloads=Places(server.max_downloads, clock, chance),
            refusal_lines=Rate(_LINES_PER_SECOND, clock, chance),
            addresses=Addresses(server.unlimited_networks),
            joins_of=RatePerCaller(
                server.max_joins_per_minute_and_address / 60, server.max_joins_per_minute_and_address, clock, chance
            ),
            calls_of=RatePerCaller(
                server.max_calls_per_second_and_worker, 2 * server.max_calls_per_second_and_worker, clock, chance
            ),
            uploads_of=PlacesPerCaller(server.max_uploads_per_address, chance),
            downloads_of=PlacesPerCaller(server.max_downloads_per_address, chance),
            listeners_of=PlacesPerCaller(_MOST_OPEN_PAGES, chance),
        )
