"""The coordinator's memory: the most that its process takes with 4, 16 and 64 volunteers who hand in at once, in every round.

A model of 160 MB (fp32) and one of 1 MB, which is the base; the difference is told in multiples of the larger model. The first
version's evaluation is over when the rounds begin, and has figures of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.coordinator_memory.process_memory import Peak, peak_of
from benchmarks.coordinator_memory.volunteers import work
from benchmarks.figures import Figure
from benchmarks.round import MODELS, ours

_BATCH: Final = 8
_TINY: Final = 1
_MIB: Final = 2**20
_RUN: Final = ("lease.timeout_seconds=600.0", "round.max_seconds=600.0", "screening.enabled=false")
"""Volunteers send no heartbeats, and nobody may miss a round; all their deltas are the same."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    megabytes: int
    """Of the model, of `MODELS`."""
    volunteers: tuple[int, ...]
    rounds: int


_FULL: Final = Extent(megabytes=160, volunteers=(4, 16, 64), rounds=2)
_QUICK: Final = Extent(megabytes=40, volunteers=(4, 16), rounds=2)


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    extent = _QUICK if quick else _FULL
    figures: dict[str, Figure] = {}
    for volunteers in extent.volunteers:
        base = _measure(_TINY, volunteers, extent.rounds, overrides)
        found = _measure(extent.megabytes, volunteers, extent.rounds, overrides)
        model_bytes = 4 * found.num_parameters
        for phase, small, large in (("start", base.start, found.start), ("rounds", base.rounds, found.rounds)):
            for kind, least, most in (
                ("resident", small.resident, large.resident),
                ("anonymous", small.anonymous, large.anonymous),
            ):
                name = f"{phase}_{kind}_{volunteers}"
                figures[f"base_{name}"] = Figure((least / _MIB,), "MiB")
                figures[name] = Figure((most / _MIB,), "MiB")
                figures[f"over_base_{name}"] = Figure(((most - least) / model_bytes,), "models")
        print(f"{volunteers}: {found.rounds.resident / _MIB:.0f} MiB", file=sys.stderr, flush=True)
    return figures


@dataclass(frozen=True, slots=True)
class _Measured:
    start: Peak
    """Until the first version is evaluated."""
    rounds: Peak
    num_parameters: int


def _measure(megabytes: int, volunteers: int, rounds: int, overrides: Sequence[str]) -> _Measured:
    changes = [*MODELS[megabytes], *_RUN, f"round.images={volunteers * _BATCH}", *overrides]
    with ours.coordinator(changes) as running:
        with peak_of(running.coordinator_pid) as start:
            running.await_evaluation()
        with peak_of(running.coordinator_pid) as during:
            num_parameters = work(running.url, volunteers=volunteers, rounds=rounds)
            running.await_version(rounds)
        return _Measured(start, during, num_parameters)
