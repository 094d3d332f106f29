"""Eight volunteers, one of which is killed every 60 or every 15 seconds: the accepted images a second that are left.

All times are a tenth: the periods, the heartbeats and timeouts of the defaults, leases (10 s of training), rounds (two
minutes), and the pause of a killed one, which is what a worker's process takes here from its start to its lease, measured
first. What does not scale, such as a call or a transaction, weighs ten times too much.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, LifeSection, Spread

from benchmarks.figures import Figure
from benchmarks.processes import start
from benchmarks.site import QUIET, TINY, Site, site

_SOONER: Final = 10
_WORKERS: Final = 8
_BATCH: Final = 16
_IMAGES_PER_SECOND: Final = 16.0 * _SOONER
_LEASE_SECONDS: Final = 10 / _SOONER
_ROUND_SECONDS: Final = 120 / _SOONER
_PERIODS: Final = {"60s": 60 / _SOONER, "15s": 15 / _SOONER}
_RUN: Final = (
    *QUIET,
    *TINY,
    f"inner.batch_images={_BATCH}",
    f"lease.max_steps={round(_LEASE_SECONDS * _IMAGES_PER_SECOND / _BATCH)}",
    f"lease.heartbeat_seconds={30 / _SOONER}",
    f"lease.timeout_seconds={100 / _SOONER}",
    f"round.images={round(_WORKERS * _IMAGES_PER_SECOND * _ROUND_SECONDS)}",
    f"round.max_seconds={1200 / _SOONER}",
)


def kills(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    repetitions, seconds = (1, 2 * _ROUND_SECONDS) if quick else (3, 5 * _ROUND_SECONDS)
    with site(*_RUN, *overrides) as place:
        startups = _startup_seconds(place, 1 if quick else 3)
        pause = min(startups) / _SOONER
        rates: dict[str, list[float]] = {"calm": [], **{name: [] for name in _PERIODS}}
        for repetition in range(repetitions):
            rates["calm"].append(asyncio.run(_rate(place, repetition, None, pause, seconds)))
            for name, period in _PERIODS.items():
                rates[name].append(asyncio.run(_rate(place, repetition, period, pause, seconds)))
    shares = {name: [rate / calm for rate, calm in zip(rates[name], rates["calm"], strict=True)] for name in _PERIODS}
    return {
        "startup_seconds_kills": Figure(tuple(startups), "s"),
        **{f"images_per_second_{name}": Figure(tuple(found), "images/s") for name, found in rates.items()},
        **{f"throughput_{name}": Figure(tuple(found), "share of the calm run's") for name, found in shares.items()},
    }


async def _rate(place: Site, seed: int, period: float | None, pause: float, seconds: float) -> float:
    """Accepted images a second; from the second round on, for so long."""
    settings = FleetSettings(
        workers=_WORKERS,
        seed=seed,
        speed=Spread(median=_IMAGES_PER_SECOND, sigma=0.3),
        claim_speed=True,
        life=LifeSection(pause=Spread(median=pause)),
    )
    fleet = Fleet(await asyncio.to_thread(FoundRun.at, place.url), settings)
    async with fleet.joined():
        killing = asyncio.create_task(_kill(fleet, period)) if period else None
        await asyncio.to_thread(place.await_version, await asyncio.to_thread(place.newest_version) + 1)
        began = time.time()
        await asyncio.sleep(seconds)
        ended = time.time()
        if killing:
            killing.cancel()
    images = _images_between(place, began, ended)
    print(f"period {period}: {images / seconds:.0f} images/s", file=sys.stderr, flush=True)
    return images / (ended - began)


async def _kill(fleet: Fleet, period: float) -> None:
    rng = random.Random(fleet.settings.seed)  # noqa: S311
    while True:
        await asyncio.sleep(period)
        while not fleet.kill(rng.randrange(_WORKERS)):
            pass  # that one is away


def _images_between(place: Site, began: float, ended: float) -> int:
    """Accepted in that time (seconds since 1970)."""
    with place.ledger() as ledger:
        numbers = range(1, ledger.newest_version().version + 2)
        found = itertools.chain.from_iterable(ledger.contributions(number) for number in numbers)
        return sum(c.images for c in found if began <= c.accepted_at_ms / 1000 < ended)


def _startup_seconds(place: Site, count: int) -> list[float]:
    """What a worker that has been here before takes from its process's start to its lease."""
    state = place.root / "worker"
    places = ["--state-dir", str(state), "--set", f"cache_dir='{state / 'cache'}'"]
    arguments = ["-m", "diffusion_at_home", "worker", "run", place.url, "--leases", "1", *places]
    settings = ["--set", "device='cpu'", "--set", "threads=1"]
    found: list[float] = []
    for _ in range(count + 1):
        before = _last_lease(place)[0]
        with ExitStack() as stack, place.log.open("ab") as log:
            began = time.time()
            process = start(stack, [*arguments, *settings], log.fileno())
            assert process.wait() == 0, place.log.read_text()
        number, granted_at = _last_lease(place)
        assert number > before
        found.append(granted_at - began)
    return found[1:]


def _last_lease(place: Site) -> tuple[int, float]:
    """Its number, and when it was granted (seconds since 1970)."""
    leases = place.leases()
    return (leases[-1].lease_id, leases[-1].granted_at_ms / 1000) if leases else (0, 0.0)
