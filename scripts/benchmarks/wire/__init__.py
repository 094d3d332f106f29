"""Wire: what a round costs a worker's line, counted by the interface and not by us.

Coordinator and workers, as in the benchmark of rounds, have a network each, joined by one cable with packets of 1,500 bytes. What
the workers' end has sent and received between two versions, with every header and acknowledgement, is divided by workers, rounds
and parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from benchmarks.figures import Figure
from benchmarks.fleets import FLEETS
from benchmarks.round import MODELS, ours
from benchmarks.wire.cable import Cable, Traffic, cable

_CASES: Final = ("int8", "int4", "sparse")

_MODEL: Final = MODELS[40]
_LEFT_OUT: Final = 3
"""Rounds at the start, in which workers fetch a snapshot and measure their speed."""
_ROUNDS_A_VALUE: Final = 8
_POLL_SECONDS: Final = 0.01


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    figures: dict[str, Figure] = {}
    for case in _CASES:
        up, down = _measure([*_MODEL, *FLEETS[case], *overrides], values=1 if quick else 5)
        print(f"{case}: {sum(up) / len(up):.4f} up, {sum(down) / len(down):.4f} down", file=sys.stderr, flush=True)
        figures[f"uplink_bytes_per_parameter_{case}"] = Figure(up, "B")
        figures[f"downlink_bytes_per_parameter_{case}"] = Figure(down, "B")
    return figures


def _measure(overrides: Sequence[str], *, values: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bytes a parameter, worker and round: up, and down."""
    with cable() as line, ours.fleet(overrides, line.place) as running:
        marks = [_at_version(running, line, _LEFT_OUT)]
        for _ in range(values):
            marks.append(_at_version(running, line, marks[-1][0] + _ROUNDS_A_VALUE))
        num_parameters = running.num_parameters
    up, down = [], []
    for (version, before), (later, after) in pairwise(marks):
        shares = (later - version) * ours.NUM_WORKERS * num_parameters
        up.append((after.sent_bytes - before.sent_bytes) / shares)
        down.append((after.received_bytes - before.received_bytes) / shares)
    return tuple(up), tuple(down)


def _at_version(running: ours.Fleet, line: Cable, version: int) -> tuple[int, Traffic]:
    """The newest version, from `version` on, and the traffic when it appeared."""
    newest = running.await_version(version, poll_seconds=_POLL_SECONDS)
    return newest, line.traffic()
