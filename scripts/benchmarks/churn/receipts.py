"""A thousand receipts that never arrive: what was handed in counts once, and is credited once.

Half of them are read and thrown away, as a proxy would that eats them; of the others the call is given up at a random moment
around the answer, so that nobody knows whether it came to one. Then the volunteer hands in again, until it has a receipt.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, MisbehaviourSection, Spread
from simulator.tally import Tally

from benchmarks.figures import Figure
from benchmarks.site import QUIET, TINY, Site, site

_WORKERS: Final = 16
_BATCH: Final = 8
_RUN: Final = (
    *TINY,
    *QUIET,
    f"inner.batch_images={_BATCH}",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    f"round.images={4 * _WORKERS * _BATCH}",
    "round.quorum=1.0",
)
_FLEET: Final = FleetSettings(
    workers=_WORKERS, speed=Spread(median=0.0), misbehaviour=MisbehaviourSection(lose_receipts=1.0)
)


def receipts(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    count = 200 if quick else 1000
    total = f"run.total_images={count * _BATCH}"  # each lease's first receipt is lost
    with site(*_RUN, total, *overrides) as place:
        tally = asyncio.run(_work(place))
        applied, images = _ledger(place)
    return {
        "lost_receipts": Figure((float(tally.counts["receipts lost"]),), "receipts"),
        "contributions_receipts": Figure((float(applied.total()),), "contributions"),
        "applied_twice_receipts": Figure((float(sum(n > 1 for n in applied.values())),), "leases"),
        "receipts_that_differ": Figure((float(tally.counts["receipts that differ"]),), "receipts"),
        "credited_too_much_receipts": Figure((float(images - tally.counts["images"]),), "images"),
    }


async def _work(place: Site) -> Tally:
    fleet = Fleet(await asyncio.to_thread(FoundRun.at, place.url), _FLEET)
    await fleet.work(None)
    return fleet.tally


def _ledger(place: Site) -> tuple[Counter[int], int]:
    """Contributions of each lease, and all images that are credited."""
    with place.ledger() as ledger:
        numbers = range(1, ledger.newest_version().version + 1)
        found = [contribution for number in numbers for contribution in ledger.contributions(number)]
    return Counter(int(c.lease_id) for c in found), sum(c.images for c in found)
