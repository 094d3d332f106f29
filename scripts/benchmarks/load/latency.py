"""Times of calls as figures."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.fleet import OWN_LAG
from simulator.tally import Tally

from benchmarks.figures import Figure


def latencies(tally: Tally, calls: Sequence[str], case: str) -> dict[str, Figure]:
    """Of each kind of call: all its times, and two of their percentiles; and how late the volunteers' own loop was."""
    figures: dict[str, Figure] = {}
    for call, name in [*((call, call) for call in calls), (OWN_LAG, "lag")]:
        milliseconds = tuple(1000 * seconds for seconds in tally.seconds[call])
        figures[f"{name}_ms_{case}"] = Figure(milliseconds, "ms")
        for percentile in ("p95", "p99"):
            value = tally.times(call).milliseconds[percentile]
            figures[f"{name}_ms_{percentile}_{case}"] = Figure((value,), f"ms, of {len(milliseconds)}")
    return figures
