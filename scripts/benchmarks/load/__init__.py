"""What one coordinator bears: herds, hand-ins, a thousand rounds, messages that no worker sends, and floods.

The coordinator is a process of its own; the volunteers, simulated, are another, which shares the machine with it: the time of
a call contains what either of them waits for a processor. `lag_ms_p95_*` is how late the volunteers' own loop was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.figures import Figure
from benchmarks.load.flood import flood
from benchmarks.load.hand_in import hand_in
from benchmarks.load.herd import herd
from benchmarks.load.mutants import mutants
from benchmarks.load.rounds import rounds

_CASES: Final[dict[str, Callable[[bool, Sequence[str]], dict[str, Figure]]]] = {
    "herd": herd,
    "hand_in": hand_in,
    "rounds": rounds,
    "mutants": mutants,
    "flood": flood,
}
_CASES_KEY: Final = "load.cases="


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`; `load.cases=herd,rounds` measures only these."""
    chosen = [word.removeprefix(_CASES_KEY).split(",") for word in overrides if word.startswith(_CASES_KEY)]
    changes = [word for word in overrides if not word.startswith(_CASES_KEY)]
    figures: dict[str, Figure] = {}
    for name in chosen[-1] if chosen else _CASES:
        found = _CASES[name](quick, changes)
        for metric, figure in found.items():
            print(f"{metric}: {figure.summary()}", file=sys.stderr, flush=True)
        figures |= found
    return figures
