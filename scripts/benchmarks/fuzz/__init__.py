"""Mutants of all that either side reads from the other, from a server or from a disk, given to its readers in this process.

Each starts from a small valid example that our own code has made, and is changed by a generator of its own:
`--set fuzz.only=KIND:N` repeats number N of a kind, and prints its traceback. A reader may accept it, or refuse it by the
errors that its contract names; whatever else it does is a crash. See `benchmarks.fuzz.guard` for what else must not happen.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from benchmarks.figures import Figure
from benchmarks.fuzz.guard import Guard, Outcome, Verdict
from benchmarks.fuzz.target import Target
from benchmarks.fuzz.targets import all_targets
from diffusion_at_home.errors import ConfigError

_FULL: Final = 100_000
_QUICK: Final = 5_000
_WARM_UP: Final = 60
"""Mutants of each kind that come first and are not counted: whatever is loaded at first use is loaded then."""

_SHOWN: Final = 5
"""Failures of a kind whose traceback is printed."""

_MIB: Final = 2**20
_ONLY: Final = "fuzz.only="


@dataclass(slots=True)
class Tally:
    """What came of the mutants of one kind."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    code_run: int = 0
    writes_outside: int = 0

    def add(self, verdict: Verdict) -> None:
        """One more."""
        self.outcomes[verdict.outcome] += 1
        self.code_run += len(verdict.code_run)
        self.writes_outside += len(verdict.writes_outside)


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    only = next((word.removeprefix(_ONLY) for word in overrides if word.startswith(_ONLY)), "")
    with TemporaryDirectory() as name, ExitStack() as opened:
        scratch = Path(name).resolve() / "canary" / "scratch"
        scratch.mkdir(parents=True)
        targets = all_targets(scratch, opened)
        guard = Guard(scratch)
        if only:
            return _again(guard, targets, only)
        return _figures(guard, targets, _QUICK if quick else _FULL)


def fuzz(guard: Guard, target: Target, numbers: Iterable[int]) -> Tally:
    """Try the mutants of `target` with these `numbers`, and say on standard error which of them failed."""
    tally, shown = Tally(), 0
    for number in numbers:
        verdict = guard.call(target.mutant(random.Random(f"{target.kind}:{number}")), target.refusals)  # noqa: S311
        tally.add(verdict)
        if verdict.trace or verdict.code_run or verdict.writes_outside:
            shown += 1
            if shown <= _SHOWN:
                print(f"{target.kind}:{number} {verdict.outcome}", file=sys.stderr)
                print(verdict.trace, *verdict.code_run, *verdict.writes_outside, sep="\n", file=sys.stderr, flush=True)
    return tally


def _figures(guard: Guard, targets: Sequence[Target], count: int) -> dict[str, Figure]:
    shares = sum(target.share for target in targets)
    tallies: dict[str, Tally] = {}
    with guard.up():
        for target in targets:
            fuzz(guard, target, range(-_WARM_UP, 0))
        beside = _beside(guard.scratch)
        resident_bytes = psutil.Process().memory_info().rss
        _forget_peak()
        for index, target in enumerate(targets):
            first, last = (count * sum(t.share for t in targets[:end]) // shares for end in (index, index + 1))
            tallies[target.kind] = fuzz(guard, target, range(last - first))
            print(f"{target.kind}: {dict(tallies[target.kind].outcomes)}", file=sys.stderr, flush=True)
        growth_bytes = _peak_bytes() - resident_bytes
    moved = len(beside ^ _beside(guard.scratch))
    figures: dict[str, Figure] = {}
    for kind, tally in tallies.items():
        outcomes = tally.outcomes
        figures[f"mutations_{kind}"] = _one(outcomes.total(), "inputs")
        figures[f"accepted_{kind}"] = _one(outcomes[Outcome.ACCEPTED], "inputs")
        figures[f"crashes_{kind}"] = _one(outcomes[Outcome.CRASHED], "inputs")
    return figures | {
        "mutations": _one(sum(tally.outcomes.total() for tally in tallies.values()), "inputs"),
        "crashes": _one(sum(tally.outcomes[Outcome.CRASHED] for tally in tallies.values()), "inputs"),
        "hangs": _one(sum(tally.outcomes[Outcome.HUNG] for tally in tallies.values()), "inputs"),
        "code_run": _one(sum(tally.code_run for tally in tallies.values()), "events"),
        "writes_outside": _one(moved + sum(tally.writes_outside for tally in tallies.values()), "files"),
        "growth_mib": _one(growth_bytes / _MIB, "MiB"),
    }


def _one(value: float, unit: str) -> Figure:
    return Figure((float(value),), unit)


def _again(guard: Guard, targets: Sequence[Target], only: str) -> dict[str, Figure]:
    """One mutant, or as many as there are of a kind that is named without a number."""
    kind, _, number = only.partition(":")
    chosen = [target for target in targets if target.kind == kind]
    if not chosen or not (number or "0").lstrip("-").isdigit():
        kinds = ", ".join(target.kind for target in targets)
        raise ConfigError(
            f"{_ONLY}{only} must be a kind, or a kind and a number with a colon between; kinds are {kinds}"
        )
    with guard.up():
        fuzz(guard, chosen[0], range(-_WARM_UP, 0))
        tally = fuzz(guard, chosen[0], [int(number)] if number else range(_QUICK))
    return {f"{outcome}_{kind}": _one(count, "inputs") for outcome, count in tally.outcomes.items()}


def _beside(scratch: Path) -> set[tuple[str, int]]:
    """What lies around the scratch folder, and when it changed: nothing of ours writes there."""
    around = [path for folder in (scratch.parent, scratch.parent.parent) for path in folder.iterdir()]
    return {(str(path), path.stat().st_size) for path in around if path != scratch}


def _forget_peak() -> None:
    """Let the peak of this process's memory begin anew: see proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """The most that was resident since."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024
