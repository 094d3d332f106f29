"""What a worker's owner wants of it: a pure state machine; whoever keeps it in a file or acts on it lives elsewhere.

    RUNNING --pause--> PAUSED --resume, or its time--> RUNNING
    RUNNING --finish--> FINISHING --resume--> RUNNING
    any --stop--> STOPPING, for good

A pause holds beside the others and outlives the process: whoever finishes or stops while it is paused finds it paused at
the next start. Finishing and stopping are wishes to one process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class Wish(StrEnum):
    """The wish that counts now."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    """The lease at hand is trained and handed in whole; then the process ends."""
    STOPPING = "stopping"
    """The process ends as soon as what is trained is handed in."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A wish to rest."""

    until: datetime | None = None
    """By the wall clock, aware; None is until it is resumed."""

    def holds(self, now: datetime) -> bool:
        """Whether it is not over yet."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Wishes:
    """All that the owner has asked for and not taken back."""

    pause: Pause | None = None
    finishing: bool = False
    stopping: bool = False

    def paused(self, until: datetime | None) -> Wishes:
        """Rest from now on; the last one counts."""
        return replace(self, pause=Pause(until))

    def resumed(self) -> Wishes:
        """Work from now on: takes back a pause and the wish to finish."""
        return replace(self, pause=None, finishing=False)

    def finish(self) -> Wishes:
        """Take no further lease."""
        return replace(self, finishing=True)

    def stop(self) -> Wishes:
        """End; nothing takes that back."""
        return replace(self, stopping=True)

    def at(self, now: datetime) -> Wishes:
        """Without a pause whose time is over."""
        return self if self.pause is None or self.pause.holds(now) else replace(self, pause=None)

    def wish(self, now: datetime) -> Wish:
        """The one that counts."""
        if self.stopping:
            return Wish.STOPPING
        if self.finishing:
            return Wish.FINISHING
        return Wish.PAUSED if self.at(now).pause is not None else Wish.RUNNING

    @property
    def leaving(self) -> bool:
        """Whether the process ends once it holds no lease."""
        return self.finishing or self.stopping
