"""Pages: how large each is and how long it takes, with ten thousand workers and a year of rounds in the ledger.

The application is asked directly, on this machine, first when nothing is kept, then as its readers find it. A page's bytes are
those of its HTML, its style and its scripts; the pictures of a checkpoint come on top.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp

from benchmarks.figures import Figure
from benchmarks.pages.asking import ask
from benchmarks.pages.made_up import YEAR, Extent, make, site_of, worker_id
from coordinator.web.guard import Guard

_QUICK: Final = Extent(workers=1000, rounds=2600, contributions=20_000, live=200)
_REPEATS: Final = 3
_LINKED: Final = re.compile(r'(?:href|src)="(/static/[^"]+)"')

PAGES: Final = {
    "run": "/",
    "curve_json": "/api/v1/curve",
    "machines": "/machines",
    "contributors": "/contributors?period=month",
    "contributors_json": "/api/v1/contributors",
    "worker": f"/workers/{worker_id(3)}",
    "volunteer": "/volunteers/volunteer%201",
    "team": "/teams/team%201",
    "downloads": "/downloads",
    "status": "/status",
    "log": "/log",
    "join": "/join",
}


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch:
        started = time.monotonic()
        made = make(Path(scratch) / "run", _QUICK if quick else YEAR, *overrides)
        print(f"the ledger was filled in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        figures: dict[str, Figure] = {}
        for name, path in PAGES.items():
            cold, warm, size = [], [], 0
            for _ in range(_REPEATS):  # each time by an application that has kept nothing
                with site_of(made) as site:
                    first, again, size = asyncio.run(_measured(Guard(Starlette(routes=site.routes())), path))
                cold.append(first)
                warm.append(again)
            figures[f"seconds_{name}"] = Figure(tuple(cold), "s")
            figures[f"seconds_{name}_kept"] = Figure(tuple(warm), "s")
            figures[f"bytes_{name}"] = Figure((size,), "B")
        return figures


async def _measured(app: ASGIApp, path: str) -> tuple[float, float, int]:
    """Seconds of the first request and of the second, and bytes with style and scripts."""
    started = time.monotonic()
    answer = await ask(app, path)
    first = time.monotonic() - started
    assert answer.status == 200, f"{path}: {answer.status}"
    started = time.monotonic()
    await ask(app, path)
    again = time.monotonic() - started
    linked = [await ask(app, found) for found in sorted(set(_LINKED.findall(answer.text)))]
    return first, again, len(answer.body) + sum(len(one.body) for one in linked)
