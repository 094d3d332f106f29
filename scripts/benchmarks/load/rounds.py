"""A thousand rounds as quick as they come, of a small model and of volunteers that train nothing.

The coordinator's memory and open files at the end, against those of its first tenth.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, Spread

from benchmarks.figures import Figure
from benchmarks.site import QUIET, TINY, Site, site

_WORKERS: Final = 8
_BATCH: Final = 8
_POLL_SECONDS: Final = 0.25
_MIB: Final = 2**20
_RUN: Final = (
    *QUIET,
    *TINY,
    f"inner.batch_images={_BATCH}",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    f"round.images={_WORKERS * _BATCH}",
    "round.quorum=1.0",
)
_FLEET: Final = FleetSettings(workers=_WORKERS, speed=Spread(median=0.0), fetch_weights=True)


@dataclass(frozen=True, slots=True)
class _Look:
    """At the coordinator's process."""

    version: int
    resident_bytes: int
    files: int


def rounds(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    count = 100 if quick else 1000
    with site(*_RUN, *overrides) as place:
        looks = asyncio.run(_work(place, count))
    early = [look for look in looks if count // 10 <= look.version < count // 5]
    late = [look for look in looks if look.version >= count - count // 10]
    return {
        "memory_growth_rounds": Figure((_growth(early, late, "resident_bytes"),), "share"),
        "memory_mib_rounds": Figure(tuple(look.resident_bytes / _MIB for look in looks), "MiB"),
        "files_growth_rounds": Figure((_growth(early, late, "files"),), "share"),
        "files_rounds": Figure(tuple(float(look.files) for look in looks), "files"),
    }


async def _work(place: Site, count: int) -> list[_Look]:
    fleet = Fleet(await asyncio.to_thread(FoundRun.at, place.url), _FLEET)
    looks: list[_Look] = []
    async with fleet.joined():
        while not looks or looks[-1].version < count:
            looks.append(await asyncio.to_thread(_look, place))
            await asyncio.sleep(_POLL_SECONDS)
    return looks


def _look(place: Site) -> _Look:
    place.check()
    process = place.process
    return _Look(place.newest_version(), process.memory_info().rss, process.num_fds())


def _growth(early: Sequence[_Look], late: Sequence[_Look], what: str) -> float:
    before, after = (statistics.median(getattr(look, what) for look in looks) for looks in (early, late))
    return float(after / before - 1)
