"""Overhead of a round: two workers that train nothing and hand in a whole delta, over real sockets on loopback.

Seconds a round, from one published version to the next, of the coordinator's own ledger. The first rounds, in which workers fetch
a snapshot and measure their speed, are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Figure
from benchmarks.round.ours import measure

_MODELS: Final = {
    1: ("model.prx.hidden_size=48", "model.prx.depth=3", "model.prx.heads=2"),
    40: ("model.prx.hidden_size=384", "model.prx.depth=3", "model.prx.heads=6"),
    160: ("model.prx.hidden_size=384", "model.prx.depth=12", "model.prx.heads=6"),
}
"""Overrides of configs/digits.toml by the size of its weights (MB of fp32), within a few percent."""


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    figures: dict[str, Figure] = {}
    for megabytes, model in _MODELS.items():
        found = measure([*model, *overrides], rounds=6 if quick else 14)
        print(f"{megabytes} MB: {sorted(found.seconds)[len(found.seconds) // 2]:.3f} s", file=sys.stderr, flush=True)
        figures[f"seconds_ours_{megabytes}mb"] = Figure(found.seconds, "s")
        figures[f"uplink_bytes_per_parameter_{megabytes}mb"] = Figure((found.uplink_bytes,), "B")
        figures[f"downlink_bytes_per_parameter_{megabytes}mb"] = Figure((found.downlink_bytes,), "B")
    return figures
