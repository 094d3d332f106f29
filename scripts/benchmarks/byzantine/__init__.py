"""Attackers in a fleet: held-out loss at equal accepted images against the same fleet without them, defence on and off.

The fleet is the product without its sockets: real training on digits by `LeaseTrainer`, encoded and read back, the coordinator's
own `Sketcher` and `decide`, and what they say counts in `aggregate` and `RunState.advance`. Trainings end at equal accepted
images, those after more rounds of whose contributions some were left out.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch

from benchmarks.byzantine.attacks import ATTACKS
from benchmarks.byzantine.guard import Auditor, Guard
from benchmarks.byzantine.training import Cast, Fleet
from benchmarks.figures import Figure
from benchmarks.fleets import FLEETS
from benchmarks.parity import CONFIG, Examiner, shortened
from benchmarks.parity.task import DigitsTask
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import Section, load_toml
from diffusion_at_home.config.trust import AggregationRule
from diffusion_at_home.config.values import Count, Positive

_PREFIX: Final = "byzantine."
_QUICK: Final = ("images=1280", "attacks=['sign_flip','zeros']", "rules=['mean']")
_OFF: Final = ("screening.enabled=false", "aggregation.clip=0.0", "aggregation.rule='mean'")
_UNITS: Final = {
    "loss_ratio": "1",
    "val_loss": "mean squared velocity error",
    "refused": "share of contributions",
    "rounds": "rounds",
    "banned": "workers",
    "leases_before_ban": "leases",
    "rollbacks": "times",
    "recomputed": "share of the run's images",
    "rise": "share of the least held-out loss before",
}


class ByzantineSection(Section):
    """What may be changed by `--set byzantine.key=value`; the run itself by `--set section.key=value`."""

    images: Positive = 19_200
    """Accepted ones of each training."""
    workers: Positive = 8
    """Of the fleet."""
    attackers: Count = 2
    """Of those."""
    seeds: Positive = 1
    """Repetitions, with seeds from 0."""
    codec: str = "int8"
    """How deltas and updates travel: a name of `benchmarks.fleets`."""
    attacks: tuple[str, ...] = tuple(ATTACKS)
    """What attackers do: names of `benchmarks.byzantine.attacks`."""
    rules: tuple[AggregationRule, ...] = (AggregationRule.MEAN,)
    """Rules of aggregation with the defence on."""
    off: bool = True
    """Whether each attack is tried with the defence off as well."""
    honest_first: Count = 0
    """Leases that an attacker trains as asked before it attacks."""
    audited: bool = False
    """Whether an auditor recomputes leases, and the gate watches the held-out loss, where the defence is on."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training to be examined: everything that its process needs."""

    case: str
    config: RunConfig
    cast: Cast
    audited: bool

    def figures(self) -> dict[str, float]:
        """Train and examine."""
        torch.set_num_threads(1)
        task = DigitsTask.load(self.config.model.text)
        examiner = Examiner(self.config, task, samples=0)
        started = time.monotonic()
        guard = Guard(self.config, Auditor(self.config, task), examiner.loss) if self.audited else None
        outcome = Fleet(self.config, task, self.cast, guard).train()
        loss = min(examiner.loss(outcome.published), examiner.loss(outcome.ema))
        seconds = time.monotonic() - started
        refused = (
            f"{outcome.refused_honest:.1%} of the honest and {outcome.refused_attackers:.1%} of the others refused"
        )
        print(
            f"{self.case}, seed {self.config.run.seed}: held-out loss {loss:.4f}, {refused}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        return {
            f"val_loss_{self.case}": loss,
            f"refused_honest_{self.case}": outcome.refused_honest,
            f"refused_attackers_{self.case}": outcome.refused_attackers,
            f"rounds_{self.case}": float(outcome.rounds),
            **(self._of_guard(guard) if guard else {}),
        }

    def _of_guard(self, guard: Guard) -> dict[str, float]:
        bad = {worker: leases for worker, leases in guard.bans.items() if worker < self.cast.attackers}
        print(f"{self.case}: leases before the ban {bad}, {guard.rollbacks} rollbacks", file=sys.stderr, flush=True)
        found = {
            f"banned_honest_{self.case}": float(len(guard.bans) - len(bad)),
            f"banned_attackers_{self.case}": float(len(bad)),
            f"rollbacks_{self.case}": float(guard.rollbacks),
            f"recomputed_{self.case}": guard.auditor.images / self.config.run.total_images,
            f"rise_{self.case}": guard.greatest_rise(),
        }
        return found | ({f"leases_before_ban_{self.case}": float(max(bad.values()))} if bad else {})


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    own = [text.removeprefix(_PREFIX) for text in overrides if text.startswith(_PREFIX)]
    section = load_toml(None, ByzantineSection, [*(_QUICK if quick else ()), *own])
    changes = [text for text in overrides if not text.startswith(_PREFIX)]
    trials = [trial for seed in range(section.seeds) for trial in _of_seed(section, changes, seed)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(Trial.figures, trials))
    values: dict[str, list[float]] = defaultdict(list)
    clean = {t.config.run.seed: f["val_loss_clean"] for t, f in zip(trials, found, strict=True) if t.case == "clean"}
    for trial, figures in zip(trials, found, strict=True):
        for name, value in figures.items():
            values[name].append(value)
        values[f"loss_ratio_{trial.case}"].append(figures[f"val_loss_{trial.case}"] / clean[trial.config.run.seed])
    return {name: Figure(tuple(series), _unit(name)) for name, series in values.items()}


def _of_seed(section: ByzantineSection, changes: Sequence[str], seed: int) -> Iterator[Trial]:
    """The clean run with the defence off, then on by each rule without attackers, then each attack."""

    def trial(case: str, attack: str, *overrides: str, guarded: bool = section.audited) -> Trial:
        settings = [*FLEETS[section.codec], *changes, *overrides, f"run.seed={seed}"]
        config = shortened(load_toml(CONFIG, RunConfig, settings), section.images)
        attackers = section.attackers if attack else 0
        cast = Cast(section.workers, attackers, attack, section.honest_first)
        return Trial(case, config, cast, guarded)

    yield trial("clean", "", *_OFF, guarded=False)
    for rule in section.rules:
        word = "" if len(section.rules) == 1 else f"_{rule}"
        yield trial(f"guarded{word}", "", f"aggregation.rule='{rule}'")
        for attack in section.attacks:
            yield trial(f"{attack}{word}", attack, f"aggregation.rule='{rule}'")
    if section.off:
        for attack in section.attacks:
            yield trial(f"{attack}_off", attack, *_OFF, guarded=False)


def _unit(metric: str) -> str:
    return next(unit for word, unit in _UNITS.items() if metric.startswith(word))
