"""Others who have a run's blobs: which of them to ask, and who sent which bytes of what turned out wrong.

A mirror is a stranger. Whoever fails is left at its first failure and not asked again for a while, a liar for much longer;
there is always the run itself. Nobody is blamed for bytes that another one sent: see `Origins`.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from diffusion_at_home import events
from diffusion_at_home.clock import Clock, SystemClock
from diffusion_at_home.strangers import may_ask

if TYPE_CHECKING:
    from hashlib import _Hash

STORE: Final = "the run's store"
"""To where the run leads on: another stranger."""

_ABSENT: Final = timedelta(seconds=30)
"""Of one that does not have a blob: new ones reach it late."""

_FAILED: Final = timedelta(minutes=5)
"""After its first failure; each further one in a row doubles it."""

_LONGEST: Final = timedelta(hours=6)
_LIED: Final = timedelta(hours=24)

_PIECE_BYTES: Final = 1 << 20

_log = events.logger("worker")


class Mirrors:
    """Of one run; may be used from any thread."""

    def __init__(
        self,
        listed: Sequence[str] = (),
        run_url: str = "",
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """`listed` are the bases that the run at `run_url` names; those that may not be asked are passed by."""
        self.clock: Clock = clock or SystemClock()
        self._chance = chance or random.Random()  # noqa: S311 -- no secret
        self._bases = tuple(dict.fromkeys(base.rstrip("/") for base in listed if may_ask(base, run_url)))
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        refused = [base for base in listed if not may_ask(base, run_url)]
        if refused:
            _log.warning("mirrors_refused", mirrors=refused)

    def to_ask(self) -> list[str]:
        """The bases of those that may have a blob, in an order of chance: not everybody asks the same one."""
        asked = [base for base in self._bases if not self.rests(base)]
        self._chance.shuffle(asked)
        return asked

    def rests(self, name: str) -> bool:
        """Whether `name`, a base or `STORE`, is left alone for now."""
        with self._lock:
            return self.clock.now() < self._until.get(name, -1.0)

    def served(self, name: str) -> None:
        """It has sent what was asked for."""
        with self._lock:
            self._failures.pop(name, None)

    def lacks(self, name: str) -> None:
        """It does not have a blob."""
        self._leave(name, _ABSENT, "it does not have a blob")

    def failed(self, name: str, why: str, wait: timedelta | None = None) -> None:
        """It broke off, only drips, is busy, or says nothing of sense; `wait` is what it asks for."""
        with self._lock:
            failures = self._failures[name] = self._failures.get(name, 0) + 1
        self._leave(name, min(wait or _FAILED * 2 ** min(failures - 1, 10), _LONGEST), why)

    def lied(self, name: str) -> None:
        """It sent other bytes than the blob's."""
        self._leave(name, _LIED, "it sent wrong bytes")

    def _leave(self, name: str, rest: timedelta, why: str) -> None:
        with self._lock:
            until = self.clock.now() + rest.total_seconds()
            self._until[name] = max(until, self._until.get(name, until))
        _log.warning("mirror_left", mirror=name, reason=why, seconds=round(rest.total_seconds()))


def host_of(url: str) -> str:
    """For people."""
    return urlsplit(url).netloc.rpartition("@")[2]


@dataclass(slots=True)
class _Stretch:
    """What one sender has sent in a row."""

    sender: str
    start: int
    size_bytes: int = 0
    sha256: _Hash = field(default_factory=hashlib.sha256)


class Origins:
    """Who has sent what of one unfinished download, which may go on at another sender's where one broke off.

    A file that one sender alone has sent and that is wrong is that one's lie. Of one that several have sent, each stretch is
    compared with the sound file once there is one: only who sent other bytes than are there is a liar.
    """

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._suspected: list[_Stretch] = []

    def begins(self, sender: str, start: int) -> None:
        """`sender` sends what follows byte `start`."""
        if start == 0:
            self._stretches.clear()
        self._stretches.append(_Stretch(sender, start))

    def passes(self, data: bytes) -> None:
        """The next of it."""
        last = self._stretches[-1]
        last.sha256.update(data)
        last.size_bytes += len(data)

    def wrong(self) -> str | None:
        """The file is not what it should be, and is dropped. Returns who alone sent all of it; else all are suspected."""
        stretches, self._stretches = self._stretches, []
        senders = {stretch.sender for stretch in stretches if stretch.size_bytes}
        if len(senders) == 1 and stretches[0].start == 0:
            return senders.pop()
        self._suspected += stretches
        return None

    def liars(self, sound: Path) -> set[str]:
        """Of those who are suspected, who sent other bytes than are in the file `sound`."""
        if not self._suspected:
            return set()
        with sound.open("rb") as file:
            found = set()
            for stretch in self._suspected:
                file.seek(stretch.start)
                sha256, left = hashlib.sha256(), stretch.size_bytes
                while left > 0 and (data := file.read(min(left, _PIECE_BYTES))):
                    sha256.update(data)
                    left -= len(data)
                if left > 0 or sha256.digest() != stretch.sha256.digest():
                    found.add(stretch.sender)
            return found
