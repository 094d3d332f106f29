"""Two hundred and fifty-six volunteers hand in deltas of a million parameters, round after round.

paced   each at a time of its own, a hundred or more a second together: how long one takes
burst   all of them at once: how many a second there can be
Either with deltas of a megabyte (int8) and with the ones that large runs send (sparse).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil
from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, Spread
from simulator.tally import Tally

from benchmarks.figures import Figure
from benchmarks.fleets import FLEETS
from benchmarks.load.latency import latencies
from benchmarks.site import ONE_MILLION, QUIET, Site, site

_WORKERS: Final = 256
_A_SECOND: Final = 105.0
"""Hand-ins that the paced ones make, all together."""

_BATCH: Final = 8
_RUN: Final = (
    *QUIET,
    *ONE_MILLION,
    f"inner.batch_images={_BATCH}",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    f"round.images={_WORKERS * _BATCH}",
    "round.quorum=1.0",
    "round.max_seconds=600.0",
    "audit.shown_leaves=0",  # these volunteers have no residual
)
_FLEET: Final = FleetSettings(workers=_WORKERS, speed=Spread(median=0.0), deltas=16)


def hand_in(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    rounds, codecs = (2, ("int8",)) if quick else (20, ("int8", "sparse"))
    figures: dict[str, Figure] = {}
    for codec in codecs:
        with site(*_RUN, *FLEETS[codec], *overrides) as place:
            for case, most_seconds in (("paced", _WORKERS / _A_SECOND), ("burst", 0.0)):
                seen = asyncio.run(_work(place, most_seconds, rounds))
                name, count = f"{case}_{codec}", rounds * _WORKERS
                figures[f"submits_per_second_{name}"] = Figure(_rates(place, seen.first, rounds), "/s, of one round")
                figures |= latencies(seen.tally, ("submit",), name)
                figures[f"busy_{name}"] = Figure((float(seen.tally.refusals["submit", "busy"]),), "refusals")
                for who, seconds in (("coordinator", seen.coordinator_seconds), ("fleet", seen.fleet_seconds)):
                    figures[f"cpu_ms_{who}_{name}"] = Figure((1000 * seconds / count,), "ms a contribution")
    return figures


@dataclass(frozen=True, slots=True)
class _Seen:
    first: int
    """Round that is measured."""
    tally: Tally
    coordinator_seconds: float
    """Of processors; what is left of them when others want them, too, is what a rate depends on."""
    fleet_seconds: float


async def _work(place: Site, most_seconds: float, rounds: int) -> _Seen:
    rng = random.Random(0)  # noqa: S311

    def speed(number: int) -> float:  # noqa: ARG001 -- one draw a lease
        return _BATCH / rng.uniform(0.0, most_seconds) if most_seconds else math.inf

    run = await asyncio.to_thread(FoundRun.at, place.url)
    fleet = Fleet(run, _FLEET, lambda fleet: fleet.pretended(speed))
    async with fleet.joined():
        # All have joined and made their connections in the rounds before.
        first = await asyncio.to_thread(place.newest_version) + 3
        await asyncio.to_thread(place.await_version, first - 1)
        fleet.phase()
        spent = _cpu_seconds(place.process), time.process_time()
        await asyncio.to_thread(place.await_version, first - 1 + rounds)
        coordinator_seconds = _cpu_seconds(place.process) - spent[0]
        return _Seen(first, fleet.phase(), coordinator_seconds, time.process_time() - spent[1])


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _rates(place: Site, first: int, rounds: int) -> tuple[float, ...]:
    """Of each round, from its first receipt to its last."""
    found: list[float] = []
    with place.ledger() as ledger:
        for number in range(first, first + rounds):
            at = sorted(contribution.accepted_at_ms for contribution in ledger.contributions(number))
            found.append(1000 * (len(at) - 1) / (at[-1] - at[0]))
    return tuple(found)
