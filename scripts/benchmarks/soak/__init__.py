"""A soak: real training for an hour and more while everything fails now and then, against a run in which nothing does.

Workers are real processes behind home lines. At seeded random times one of them or the coordinator is killed with -9, a line
is cut or falls silent, a worker stands still for longer than its lease. Whoever was killed comes back after a while. Beside
it, on the same machine, the same run trains undisturbed, until it has as many images; both learn from the same data under the
same schedule, and are compared by held-out loss at equal accepted images. At the end the disturbed run is replayed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from benchmarks.soak.camp import Camp, Trained
from benchmarks.soak.chaos import Chaos
from benchmarks.soak.plot import draw
from coordinator.replay import replay
from diffusion_at_home.config.toml import Section, load_toml
from diffusion_at_home.config.values import Positive, Rate

_PREFIX: Final = "soak."
_QUICK: Final = ("minutes=0.6",)
_QUICK_RUN: Final = ("evaluation.every_images=1280",)


class SoakSection(Section):
    """What may be changed by `--set soak.key=value`; the run itself by `--set section.key=value`."""

    minutes: Rate = 60.0
    """For which faults go on."""
    workers: Positive = 3
    """Real ones."""
    seconds_between: Rate = 15.0
    """Mean time from a fault to the next (seconds)."""
    seed: int = 0
    """Of the faults."""
    out: Path | None = None
    """Folder for the curves as JSON and as a picture."""


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    own = [text.removeprefix(_PREFIX) for text in overrides if text.startswith(_PREFIX)]
    soak = load_toml(None, SoakSection, [*(_QUICK if quick else ()), *own])
    changes = [*(_QUICK_RUN if quick else ()), *(text for text in overrides if not text.startswith(_PREFIX))]
    with tempfile.TemporaryDirectory(prefix="dah-soak-") as scratch:
        with (
            Camp(Path(scratch) / "calm", soak.workers, changes) as calm_camp,
            Camp(Path(scratch) / "disturbed", soak.workers, changes) as camp,
        ):
            chaos = Chaos(camp, seed=soak.seed, seconds_between=soak.seconds_between)
            chaos.rage(60 * soak.minutes)
            disturbed = camp.finish(images=1)
            calm = calm_camp.finish(images=disturbed.losses[-1][0])
        replayed = replay(camp.folder)
    assert replayed.images == disturbed.images, f"the ledger makes {replayed.images} images of {disturbed.images}"
    if soak.out is not None:
        soak.out.mkdir(parents=True, exist_ok=True)
        curves = {"disturbed": disturbed.losses, "calm": calm.losses, "faults": chaos.counts}
        (soak.out / "soak.json").write_text(json.dumps(curves, indent=1))
        draw(soak.out / "soak.png", disturbed, calm)
    return _figures(disturbed, calm, chaos)


def _figures(disturbed: Trained, calm: Trained, chaos: Chaos) -> dict[str, Figure]:
    for kind, count in chaos.counts.items():
        print(f"{kind}: {count}", file=sys.stderr)
    ratios = [loss / _at(calm.losses, images) for images, loss in disturbed.losses if images]
    return {
        "minutes": Figure((disturbed.seconds / 60,), "min"),
        "images": Figure((disturbed.images,), "images"),
        "faults": Figure((sum(chaos.counts.values()),), "faults"),
        "loss_disturbed": Figure((disturbed.losses[-1][1],), "mean squared velocity error"),
        "loss_calm": Figure((_at(calm.losses, disturbed.losses[-1][0]),), "mean squared velocity error"),
        "loss_ratio": Figure(tuple(ratios), "1, one value an evaluation"),
        "speed_ratio": Figure((disturbed.images_per_second / calm.images_per_second,), "1"),
        "replay_agrees": Figure((1.0,), "1"),
    }


def _at(curve: Sequence[tuple[int, float]], images: int) -> float:
    """The loss after `images`, between two evaluations by a straight line; rounds do not end at the same images."""
    marks = [mark for mark, _ in curve]
    after = min(max(bisect_right(marks, images), 1), len(curve) - 1)
    (left, low), (right, high) = curve[after - 1], curve[after]
    return low + (high - low) * (images - left) / (right - left)
