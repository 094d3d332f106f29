"""Ten thousand requests that no worker sends: fields and bytes changed at random, with a valid token.

None of them may count, whatever it says: those that hand in have a valid header changed and a delta whose digest never fits;
those that ask for work, join or give back come from one who has no lease, in a round in which all is leased. So the ledger
must be the same afterwards, row by row. See `simulator.hostile`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from simulator.fleet import FoundRun
from simulator.hostile import Hostile, Seen

from benchmarks.figures import Figure
from benchmarks.site import QUIET, TINY, Site, site

_BATCH: Final = 8
_MIB: Final = 2**20
_RUN: Final = (
    *QUIET,
    *TINY,
    f"inner.batch_images={_BATCH}",
    "lease.min_steps=1",
    "lease.probe_steps=2",
    f"round.images={2 * _BATCH}",
    "round.max_seconds=86400.0",
    "lease.timeout_seconds=3600.0",
)


def mutants(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    count = 1_000 if quick else 10_000
    with site(*_RUN, *overrides) as place:
        seen, growth_bytes, changed = asyncio.run(_work(place, count))
    unnamed = sum(n for (_, answer), n in seen.answers.items() if answer in {"(internal)", "(unknown)"})
    return {
        "requests_mutants": Figure((float(seen.sent),), "requests"),
        "rows_changed_mutants": Figure((float(changed),), "rows"),
        "traces_to_client_mutants": Figure((float(len(seen.traces)),), "answers"),
        "unnamed_faults_mutants": Figure((float(unnamed),), "answers"),
        "memory_growth_mib_mutants": Figure((growth_bytes / _MIB,), "MiB"),
    }


async def _work(place: Site, count: int) -> tuple[Seen, int, int]:
    """What was answered, by how much the coordinator has grown (bytes), and rows of the ledger that differ."""
    async with Hostile.joined(await asyncio.to_thread(FoundRun.at, place.url), seed=0) as hostile:
        await hostile.send(count // 10)  # until every buffer has its size
        resident_bytes, rows = place.process.memory_info().rss, place.rows()
        seen = await hostile.send(count)
        place.check()
        return seen, place.process.memory_info().rss - resident_bytes, len(rows ^ place.rows())
