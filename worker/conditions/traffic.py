"""Bytes up and down by calendar month, kept from start to start, and the volunteer's cap on each.

Counted is what contributions, shards and weights take, not what the protocol adds to them. A transfer is begun only if it fits
in what is left of the cap; so a cap is kept and never passed. What is counted never gets less: a process that is killed loses
the bytes of the seconds since the file was last written.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from diffusion_at_home.clock import Clock
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import ConfigError, LeaseLost
from worker.atomic_file import write_atomically
from worker.conditions.wall_clock import WallClock, next_month, when

_WRITE_SECONDS: Final = 2.0
_KEPT_MONTHS: Final = 24
_GIB: Final = 2**30

_Count = Annotated[int, Field(ge=0)]


class _Kept(Section):
    """The file. Months are named as in 2026-11."""

    up_bytes: dict[str, _Count] = Field(default_factory=dict)
    down_bytes: dict[str, _Count] = Field(default_factory=dict)
    contribution_bytes: _Count = 0
    """Size of the last contribution: the next one is expected to be as large."""


class Meter:
    """One direction. Told from any thread."""

    def __init__(self, key: str, counted: Counter[str], wall: WallClock, *, repeats: bool) -> None:
        """`key` is the cap's, `counted` are bytes by month; `repeats` if each transfer is about as large as the last."""
        self._key = key
        self._wall = wall
        self._repeats = repeats
        self._lock = threading.Lock()
        self._counted = counted
        self._cap_bytes = math.inf
        self._under_way_bytes = 0
        self._next_bytes = 0

    @property
    def used_bytes(self) -> int:
        """In this month."""
        return self._counted[self._month()]

    @property
    def next_bytes(self) -> int:
        """Of a transfer that is expected next, or that did not fit; 0 is none."""
        return self._next_bytes

    def counted(self) -> dict[str, int]:
        """Bytes by month, the last months only."""
        with self._lock:
            return dict(sorted(self._counted.items())[-_KEPT_MONTHS:])

    def limit(self, cap_bytes: float) -> None:
        """Set the cap; infinity is none."""
        self._cap_bytes = cap_bytes

    def expect(self, num_bytes: int) -> None:
        """A transfer of so many bytes comes next."""
        self._next_bytes = num_bytes

    def passes(self, num_bytes: int) -> None:
        """So many bytes have gone over the line."""
        with self._lock:
            self._counted[self._month()] += num_bytes

    @contextmanager
    def transfer(self, num_bytes: int) -> Iterator[None]:
        """Within, so many bytes are about to pass. Raises `LeaseLost` if the cap does not leave them."""
        with self._lock:
            fits = self.used_bytes + self._under_way_bytes + num_bytes <= self._cap_bytes
            if not fits or self._repeats:
                self._next_bytes = num_bytes
            elif num_bytes >= self._next_bytes:
                self._next_bytes = 0
            if not fits:
                raise LeaseLost(self._sentence(), "monthly_cap")
            self._under_way_bytes += num_bytes
        try:
            yield
        finally:
            with self._lock:
                self._under_way_bytes -= num_bytes

    def why_full(self) -> str | None:
        """Why no more can be done in this month, None if that is not so."""
        used, cap = self.used_bytes, self._cap_bytes
        return self._sentence() if used >= cap or used + self._next_bytes > cap else None

    @property
    def is_hopeless(self) -> bool:
        """Whether a new month changes nothing: the next transfer is larger than the cap."""
        return self._next_bytes > self._cap_bytes

    def _month(self) -> str:
        return f"{self._wall.local(self._wall.now()):%Y-%m}"

    def _sentence(self) -> str:
        cap = f"limits.{self._key} = {self._cap_bytes / _GIB:g}"
        if self.is_hopeless:
            return f"a transfer of {self._next_bytes / _GIB:.3f} GiB does not fit {cap}: raise it"
        coming = f", and the next transfer takes {self._next_bytes / _GIB:.3f}" if self._next_bytes else ""
        again = when(next_month(self._wall), self._wall.local(self._wall.now()))
        return f"{self.used_bytes / _GIB:.3f} GiB of {cap} are used{coming}: it works again at {again}, or with more"


class Traffic:
    """Both directions, and their file."""

    def __init__(self, path: Path, clock: Clock, wall: WallClock) -> None:
        """Go on from what `path` says, if it is there. Raises `ConfigError` if it is damaged."""
        self._path = path
        self._clock = clock
        self._written = kept = _read(path)
        self._written_at = clock.now()
        self.up = Meter("up_gib_per_month", Counter(kept.up_bytes), wall, repeats=True)
        self.down = Meter("down_gib_per_month", Counter(kept.down_bytes), wall, repeats=False)
        self.up.expect(kept.contribution_bytes)

    def limit(self, up_gib: float, down_gib: float) -> None:
        """Set both caps (GiB a month); 0 is none."""
        self.up.limit(int(up_gib * _GIB) if up_gib else math.inf)
        self.down.limit(int(down_gib * _GIB) if down_gib else math.inf)

    def keep(self) -> None:
        """Write the file if something is new and the last time is some seconds ago. Raises `StorageError`."""
        if self._clock.now() - self._written_at >= _WRITE_SECONDS:
            self.close()

    def close(self) -> None:
        """Write the file if something is new. Raises `StorageError`."""
        self._written_at = self._clock.now()
        now = _Kept(up_bytes=self.up.counted(), down_bytes=self.down.counted(), contribution_bytes=self.up.next_bytes)
        if now != self._written:
            write_atomically(self._path, now.model_dump_json(indent=1).encode())
            self._written = now


def _read(path: Path) -> _Kept:
    try:
        return _Kept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _Kept()
    except ValidationError as error:
        raise ConfigError(
            f"{path} is damaged ({first_mistake(error)}): delete it, and count this month's bytes from 0"
        ) from None
