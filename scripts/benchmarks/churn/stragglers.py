"""One volunteer that hangs with every lease, still beating, and one that is 20 times slower: what they do to the rounds of six.

The slow one claims to be as fast as the others until it is known better. Rounds take three seconds. Those in which paces are
learned are left out; the ratio is of each round with the two to the median round without them.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Sequence
from typing import Final

from simulator.fleet import Fleet, FoundRun
from simulator.profile import Misbehaviour
from simulator.settings import FleetSettings, MisbehaviourSection, Spread

from benchmarks.figures import Figure
from benchmarks.site import QUIET, TINY, Site, site

_HONEST: Final = 6
_BATCH: Final = 4
_IMAGES_PER_SECOND: Final = 120.0
_ROUND_SECONDS: Final = 3.0
_SLOWER: Final = 20
_LEFT_OUT: Final = 4
_RUN: Final = (
    *TINY,
    *QUIET,
    f"inner.batch_images={_BATCH}",
    f"round.images={round(_HONEST * _IMAGES_PER_SECOND * _ROUND_SECONDS)}",
    f"round.max_seconds={10 * _ROUND_SECONDS}",
    "lease.heartbeat_seconds=0.25",
)
_EVEN: Final = Spread(median=_IMAGES_PER_SECOND)
_WITHOUT: Final = FleetSettings(workers=_HONEST, speed=_EVEN)
_WITH: Final = FleetSettings(workers=_HONEST + 2, speed=_EVEN, misbehaviour=MisbehaviourSection(hang=1 / 8, slow=1 / 8))


def stragglers(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    rounds = 5 if quick else 20
    with site(*_RUN, *overrides) as place:
        without = asyncio.run(_work(place, _WITHOUT, rounds))[0]
    with site(*_RUN, *overrides) as place:
        seconds, slow = asyncio.run(_work(place, _WITH, rounds))
        images = _images_of(place, slow, rounds)
    base = statistics.median(without)
    due = _IMAGES_PER_SECOND / _SLOWER * statistics.median(seconds)
    return {
        "round_seconds_without": Figure(tuple(without), "s"),
        "round_seconds_stragglers": Figure(tuple(seconds), "s"),
        "round_ratio_stragglers": Figure(tuple(each / base for each in seconds), "of the median round without them"),
        "slow_images_stragglers": Figure(tuple(float(n) for n in images), "images a round"),
        "slow_share_stragglers": Figure(tuple(n / due for n in images), "of what it can train in a round"),
    }


async def _work(place: Site, settings: FleetSettings, rounds: int) -> tuple[list[float], str]:
    """Seconds of each measured round, and who the slow one is."""
    fleet = Fleet(await asyncio.to_thread(FoundRun.at, place.url), settings)
    async with fleet.joined():
        await asyncio.to_thread(place.await_version, _LEFT_OUT + rounds)
        slow = [v.profile for v in fleet.volunteers if v.profile.misbehaviour is Misbehaviour.SLOW]
    with place.ledger() as ledger:
        at = [version.published_at_ms / 1000 for version in ledger.versions()]
    measured = at[_LEFT_OUT : _LEFT_OUT + rounds + 1]
    seconds = [later - sooner for sooner, later in itertools.pairwise(measured)]
    return seconds, slow[0].identity.worker_id if slow else ""


def _images_of(place: Site, worker: str, rounds: int) -> list[int]:
    """Accepted of `worker`, in each measured round."""
    with place.ledger() as ledger:
        found = [ledger.contributions(number) for number in range(_LEFT_OUT + 1, _LEFT_OUT + rounds + 1)]
    return [sum(c.images for c in contributions if c.worker_id == worker) for contributions in found]
