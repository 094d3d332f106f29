"""What a kill -9 of the coordinator costs, and what it must not: seconds until training again, receipts, bits.

Two volunteers who train nothing hand in whole deltas of the digits run, without a pause, while its coordinator is killed: once
at each point of tests/faults/points.py, else at random moments. Each next one is a new interpreter, started as soon as the death
is seen, as by a service manager. Seconds count from the death. Then real workers train N + N images, everything killed between,
and 2 N images undisturbed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.processes import CONFIG, dah
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import IntegrityError
from tests.faults.fixed_fleet import EQUAL_LEASES, LONG_SECONDS, train
from tests.faults.points import Who, points_of
from tests.faults.processes import Fresh, house, wait_until
from tests.faults.seams import STARTED
from tests.faults.supervisor import Supervisor, times_counted
from tests.faults.traffic import Traffic, traffic

_OPENED: Final = "start: ledger opened"
_ANNOUNCED: Final = "start: address written"
_LONGEST_LIFE_SECONDS: Final = 3.0
"""Of a coordinator that is killed at random, after it trains again."""

_PAUSE_SECONDS: Final = 0.1
"""Of a volunteer before a lease: a whole delta is on disk for each."""

_TRAFFIC: Final = (
    "run.total_images=100000000",
    "round.images=96",
    "round.quorum=1.0",
    "inner.batch_images=8",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=2",
    "evaluation.every_images=192",
    "evaluation.draws=1",
    "evaluation.max_images=32",
    "checkpoint.every_images=384",
    "judging.every_images=0",
    "checkpoint.sampling_steps=1",
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    kills: int
    every_point: bool
    """Else one in six."""
    images: int
    """N."""


_FULL: Final = Extent(kills=100, every_point=True, images=3 * 1280)
_QUICK: Final = Extent(kills=10, every_point=False, images=320)
_ROUND: Final = {3 * 1280: 640, 320: 160}
"""Images of a round, by N."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from a death until..."""

    interpreter: float
    """...the next process runs its first line of Python."""
    imported: float
    """...it opens the ledger: all that it needs is imported."""
    answers: float
    """...it says that it is open."""
    training: float
    """...a volunteer has a grant or a receipt."""
    cpu: float
    """Seconds that the process computes until it answers: what is left of the others on a machine that is busy."""


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    extent = _QUICK if quick else _FULL
    return _kills(extent, overrides) | _n_plus_n(extent, overrides)


def _kills(extent: Extent, overrides: Sequence[str]) -> dict[str, Figure]:
    with _digits([*_TRAFFIC, *overrides]) as folder, house(folder.root.parent, Fresh) as home:
        supervisor = Supervisor(home, folder, folder.root.with_name("passed"))
        live = supervisor.start()
        with traffic(live, 2, _PAUSE_SECONDS) as volunteers:
            wait_until(lambda: len(volunteers.receipts) > 2, supervisor.process)
            recoveries = [_recovery(supervisor, volunteers, plan) for plan in _plans(extent)]
        assert supervisor.process.terminate() == 0, supervisor.process.output
        assert volunteers.refusals == []
        counted = times_counted(folder, volunteers.receipts)
        agrees = _replays(folder)
    return {
        "seconds_until_interpreter": Figure(tuple(r.interpreter for r in recoveries), "s"),
        "seconds_until_imported": Figure(tuple(r.imported for r in recoveries), "s"),
        "seconds_until_it_answers": Figure(tuple(r.answers for r in recoveries), "s"),
        "seconds_until_training": Figure(tuple(r.training for r in recoveries), "s"),
        "cpu_seconds_until_it_answers": Figure(tuple(r.cpu for r in recoveries), "s"),
        "kills_survived_within_5s": Figure((sum(r.training <= 5 for r in recoveries),), f"of {len(recoveries)}"),
        "receipts": Figure((len(counted),), "1"),
        "receipts_lost": Figure((counted.count(0),), "1"),
        "receipts_counted_twice": Figure((sum(times > 1 for times in counted),), "1"),
        "replay_agrees": Figure((float(agrees),), "1"),
    }


def _plans(extent: Extent) -> Iterator[str | float]:
    """Where the next one dies: the name of a point, or after how many seconds."""
    names = [point.name for point in points_of(Who.COORDINATOR)][:: 1 if extent.every_point else 6]
    moments = random.Random(5)  # noqa: S311 -- moments, the same in every repetition
    yield from names
    for _ in range(extent.kills - len(names)):
        yield moments.uniform(0.0, _LONGEST_LIFE_SECONDS)


def _recovery(supervisor: Supervisor, volunteers: Traffic, plan: str | float) -> Recovery:
    """Kill the coordinator as planned, and see how the next one comes up."""
    if isinstance(plan, str):
        supervisor.process.kill()  # which was told of no point
        supervisor.begin(plan)
        supervisor.await_death_at(plan, LONG_SECONDS)
        died_at = supervisor.last.at
    else:
        time.sleep(plan)
        died_at = time.monotonic()
        supervisor.process.kill()
    supervisor.start()
    answers_at = time.monotonic()
    opened_at = supervisor.first(_OPENED).at
    training_at = wait_until(lambda: volunteers.progress_after(opened_at), supervisor.process)
    found = Recovery(
        interpreter=supervisor.first(STARTED).at - died_at,
        imported=opened_at - died_at,
        answers=answers_at - died_at,
        training=training_at - died_at,
        cpu=supervisor.first(_ANNOUNCED).cpu_seconds,
    )
    where = plan if isinstance(plan, str) else f"after {plan:.2f} s"
    print(
        f"{where}: python {found.interpreter:.2f} s, imports {found.imported:.2f} s, open {found.answers:.2f} s, "
        f"training {found.training:.2f} s, computing {found.cpu:.2f} s",
        file=sys.stderr,
        flush=True,
    )
    return found


def _replays(folder: RunFolder) -> bool:
    try:
        replay(folder)
    except IntegrityError as error:
        print(error, file=sys.stderr, flush=True)
        return False
    return True


def _n_plus_n(extent: Extent, overrides: Sequence[str]) -> dict[str, Figure]:
    """The same fleet with everything killed half-way, and without."""
    round_images = _ROUND[extent.images]
    steps = round_images // 2 // 16  # two leases a round, of batches of 16
    rounds = 2 * extent.images // round_images
    sizes = (
        f"run.total_images={2 * extent.images}",
        f"round.images={round_images}",
        *(f"lease.{which}_steps={steps}" for which in ("probe", "min", "max")),
    )
    found: list[list[str]] = []
    for kill_after in (rounds // 2, None):
        with _digits([*EQUAL_LEASES, *sizes, *overrides]) as folder, house(folder.root.parent, Fresh) as home:
            found.append(train(home, folder, num_workers=2, kill_after=kill_after))
            assert len(found[-1]) == rounds + 1
    return {
        "n_plus_n_equal": Figure((float(found[0] == found[1]),), "1"),
        "n_plus_n_images": Figure((2.0 * extent.images,), "1"),
    }


@contextmanager
def _digits(overrides: Sequence[str]) -> Iterator[RunFolder]:
    """A new run of configs/digits.toml with `overrides`."""
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch:
        root = Path(scratch)
        dah("data", "build", "digits", str(root / "digits"))
        changes = [f"data.path='{root / 'digits'}'", *overrides]
        settings = [word for change in changes for word in ("--set", change)]
        dah("coordinator", "init", str(root / "run"), "--config", str(CONFIG), *settings)
        yield RunFolder(root / "run")
