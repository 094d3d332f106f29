"""What a fleet saw: how many leases, receipts and refusals, and how long each call took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

PERCENTILES: Final = {"min": 0, "median": 50, "p95": 95, "p99": 99, "max": 100}


@dataclass(frozen=True, slots=True)
class Times:
    """Of the calls of one kind that were answered, without refusals (milliseconds)."""

    count: int
    milliseconds: dict[str, float]
    """By the names of `PERCENTILES`."""


class Tally:
    """One for a whole fleet, or for a phase of it; all on one loop."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """granted, idle, accepted, images, lost, vanished, ...: what came of leases and lives."""
        self.refusals: Counter[tuple[str, str]] = Counter()
        """By call and name of the refusal."""
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        """Of every call that was answered, by its name."""

    @contextmanager
    def timed(self, call: str) -> Iterator[None]:
        """Note how long the block takes, unless it raises."""
        started = perf_counter()
        yield
        self.seconds[call].append(perf_counter() - started)

    def times(self, call: str) -> Times:
        """Of the calls named so; there must be one."""
        milliseconds = 1000 * np.array(self.seconds[call])
        found = np.percentile(milliseconds, list(PERCENTILES.values()))
        return Times(len(milliseconds), dict(zip(PERCENTILES, found.tolist(), strict=True)))

    def summary(self) -> dict[str, dict[str, float] | dict[str, int] | dict[str, dict[str, float]]]:
        """As JSON has it."""
        times = {call: self.times(call) for call in sorted(self.seconds)}
        return {
            "counts": dict(sorted(self.counts.items())),
            "refusals": {f"{call} {reason}": n for (call, reason), n in sorted(self.refusals.items())},
            "milliseconds": {call: {"n": found.count, **found.milliseconds} for call, found in times.items()},
        }

    def table(self) -> str:
        """For people."""
        lines = [f"{name:<34}{count:>10}" for name, count in sorted(self.counts.items())]
        lines += [f"{f'refused: {call} {reason}':<34}{n:>10}" for (call, reason), n in sorted(self.refusals.items())]
        lines.append(f"{'milliseconds':<34}{'n':>10}" + "".join(f"{name:>10}" for name in PERCENTILES))
        for call in sorted(self.seconds):
            found = self.times(call)
            figures = "".join(f"{value:>10.1f}" for value in found.milliseconds.values())
            lines.append(f"{call:<34}{found.count:>10}{figures}")
        return "\n".join(lines)
