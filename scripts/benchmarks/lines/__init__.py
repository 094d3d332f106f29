"""Useful time on home lines: the share of it in which workers compute, with rounds, lines and sizes of a large run.

An 860 million parameter model, rounds of 20 minutes, lines of 10 Mbit/s up and 50 down, four workers of speeds 1 : 1 : 2 : 4.
Sizes are scaled down by 100, times by 40 and the rates of lines by 2.5, which leaves the share of every transfer as it is, and
gives computing 2.5 times as long: five processes, which would have a processor each, share two cores here. Training takes
its time without computing; all else is real. What does not scale, such as the start of a call, weighs 40 times too much.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Figure
from benchmarks.fleets import FLEETS
from benchmarks.lines.fleet import Shares, measure

_ROUNDS: Final = {"sparse": 10, "int8": 3}
"""The cases, and what is measured of each; rounds of int8 take twice as long."""


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    figures: dict[str, Figure] = {}
    for case in _ROUNDS:
        found = measure([*FLEETS[case], *overrides], rounds=2 if quick else _ROUNDS[case])
        for name in Shares.__slots__:
            values = tuple(getattr(shares, name) for shares in found)
            figures[f"{name}_{case}"] = Figure(values, "share of time, one value a worker")
        print(f"{case}: useful {min(figures[f'training_{case}'].values):.3f} at least", file=sys.stderr, flush=True)
    return figures
