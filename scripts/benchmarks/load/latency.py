"""Times of calls as figures."""

from __future__ import annotations

from simulator.fleet import OWN_LAG
from simulator.tally import Tally

from benchmarks.figures import Figure

_NAMES = {"heartbeat": "heartbeat", "join": "join", "lease": "lease", "submit": "submit", OWN_LAG: "lag"}


def latencies(tally: Tally, case: str) -> dict[str, Figure]:
    """Median, p95, p99 and maximum of each kind of call, each a figure of its own."""
    figures: dict[str, Figure] = {}
    for call, name in _NAMES.items():
        if call in tally.seconds:
            times = tally.times(call)
            for which in ("median", "p95", "p99", "max"):
                figures[f"{name}_ms_{which}_{case}"] = Figure((times.milliseconds[which],), f"ms, of {times.count}")
    return figures
