"""Useful time on home lines: the share of it in which workers compute, with rounds, lines and sizes of a large run.

An 860 million parameter model, rounds of 20 minutes, lines of 10 Mbit/s up and 50 down, four workers of speeds 1 : 1 : 2 : 4.
Sizes and times are scaled down together by a hundred, which leaves every share as it is: 8.8 million parameters, rounds of 12
seconds, the same lines, a hundredth of their delay. Training takes its time without computing; everything else is real, in
processes of their own. What does not scale, such as the start of a call, weighs a hundred times too much here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Figure
from benchmarks.fleets import FLEETS
from benchmarks.lines.fleet import Shares, measure

_CASES: Final = ("sparse", "int8")


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    figures: dict[str, Figure] = {}
    for case in _CASES:
        found = measure([*FLEETS[case], *overrides], rounds=2 if quick else 10)
        for name in Shares.__slots__:
            values = tuple(getattr(shares, name) for shares in found)
            figures[f"{name}_{case}"] = Figure(values, "share of time, one value a worker")
        print(f"{case}: useful {min(figures[f'training_{case}'].values):.3f} at least", file=sys.stderr, flush=True)
    return figures
