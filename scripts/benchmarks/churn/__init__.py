"""What vanishing, hanging and slow volunteers cost, and what lost receipts do: nothing.

kills        accepted images a second while one of eight is killed again and again, against a calm run
half         half of the fleet killed in every round of a real training on digits, against a calm one
receipts     a thousand receipts that never arrive
stragglers   one that hangs with its lease and one that is 20 times slower
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.churn.half import half
from benchmarks.churn.kills import kills
from benchmarks.churn.receipts import receipts
from benchmarks.churn.stragglers import stragglers
from benchmarks.figures import Figure

_CASES: Final[dict[str, Callable[[bool, Sequence[str]], dict[str, Figure]]]] = {
    "kills": kills,
    "half": half,
    "receipts": receipts,
    "stragglers": stragglers,
}
_CASES_KEY: Final = "churn.cases="


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`; `churn.cases=kills,half` measures only these."""
    chosen = [word.removeprefix(_CASES_KEY).split(",") for word in overrides if word.startswith(_CASES_KEY)]
    changes = [word for word in overrides if not word.startswith(_CASES_KEY)]
    figures: dict[str, Figure] = {}
    for name in chosen[-1] if chosen else _CASES:
        found = _CASES[name](quick, changes)
        for metric, figure in found.items():
            print(f"{metric}: {figure.summary()}", file=sys.stderr, flush=True)
        figures |= found
    return figures
