"""The figures that a benchmark hands back, and on which machine it got them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric over all repetitions."""

    values: tuple[float, ...]
    unit: str

    def summary(self) -> dict[str, float | int | str]:
        """As the JSON line has it."""
        low, middle, high = min(self.values), statistics.median(self.values), max(self.values)
        return {"min": low, "median": middle, "max": high, "unit": self.unit, "n": len(self.values)}


class Benchmark(Protocol):
    """What each package of `benchmarks` offers."""

    def run(self, *, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
        """Measure. `quick` ends within two minutes on two cores; `overrides` are `section.key=value`."""


def machine() -> dict[str, str | int | float]:
    """Facts without which a timing means nothing."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "python_loop_seconds": round(min(_loop_seconds() for _ in range(3)), 3),
    }


def _loop_seconds() -> float:
    """Of a million multiplications and additions in plain Python: a shared machine is half as fast on some days."""
    started, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number * number
    return time.process_time() - started
