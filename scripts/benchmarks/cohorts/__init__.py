"""Cohorts: experts that never exchange anything, against one model of the same size, at equal images for each worker.

One model trains on all data for `images`; each of K experts on its own part for a K-th of them, as a K-th of the workers would.
All are one node's AdamW on one thread, a process each, so what differs is the cohorts and not the fleet. Then: the mixture with
one expert a step and with more; the mean of the experts' weights; and one model that is trained to predict what the mixture does.
All are judged as `dah checkpoint evaluate` judges, by one encoder, on the same captions and noise.

No gradient, delta or weight passes between cohorts: they are different processes here, and different runs in the product.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from benchmarks.cohorts.judging import Judge
from benchmarks.cohorts.training import Distillation, RouterTraining, Training, Work
from benchmarks.figures import Figure
from benchmarks.parity import shortened
from diffusion_at_home.cohorts.cut import CutPlan, cut
from diffusion_at_home.cohorts.description import Cohorts
from diffusion_at_home.cohorts.router import RouterFacts, RouterSettings
from diffusion_at_home.cohorts.router_training import shared_tokenizer
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import Section, load_toml
from diffusion_at_home.config.values import Count, Positive
from diffusion_at_home.data.build import build
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.evaluation.features import Encoder
from diffusion_at_home.evaluation.gallery import read_real, thumbnail_side
from diffusion_at_home.evaluation.small_encoder import SmallEncoder

_PREFIX: Final = "cohorts."
_CONFIG: Final = Path(__file__).resolve().parents[3] / "configs" / "emoji.toml"
_QUICK: Final = ("images=1280", "router_images=1280", "encoder_steps=20", "pictures=20", "distilled_images=0")
_UNITS: Final = {
    "frechet": "squared distance of features",
    "kernel": "squared discrepancy",
    "retrieval": "share",
    "unseen": "share",
    "accuracy": "share",
    "val_loss": "mean squared velocity error",
    "ratio": "1",
    "seconds": "s",
}


class CohortsSection(Section):
    """What may be changed by `--set cohorts.key=value`; the run itself by `--set section.key=value`."""

    data: str = ""
    """Folder of a data set; empty builds the emoji."""
    cohorts: int = Field(default=4, ge=2, le=8)
    by: Literal["captions", "pictures"] = "captions"
    """What samples are compared by when the data is cut; pictures by an encoder of another seed than the one that judges."""
    most_ratio: float = 1.25
    """Of the largest cohort to the smallest."""
    images: Positive = 240_000
    """Of the one model; schedule and EMA of the config shrink with it."""
    router_images: Positive = 200_000
    distilled_images: Count = 60_000
    """Of the distilled model; 0 leaves it out."""
    encoder_steps: Positive = 200
    """Of the encoder that judges."""
    pictures: Positive = 100
    """Drawn of trained captions, and at most of unseen ones."""


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    own = [text.removeprefix(_PREFIX) for text in overrides if text.startswith(_PREFIX)]
    settings = load_toml(None, CohortsSection, [*(_QUICK if quick else ()), *own])
    config = load_toml(_CONFIG, RunConfig, [text for text in overrides if not text.startswith(_PREFIX)])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = Path(settings.data) if settings.data else root / "data"
        if not settings.data:
            build("emoji", data)
        cohorts, encoder = _cut(settings, data, root / "cut")
        work = _work(config, data, root, cohorts)
        _train(settings, config, work)
        return _judged(settings, work, encoder)


def _cut(settings: CohortsSection, data: Path, out: Path) -> tuple[Cohorts, Encoder]:
    """The cohorts, and the encoder that judges."""
    judge = _encoder(settings, data, out.with_name("encoder"), seed=0)
    by = None
    if settings.by == "pictures":
        by = out.with_name("clustering-encoder")
        _encoder(settings, data, by, seed=1)
    made = cut(CutPlan(data, out, settings.cohorts, encoder=by, most_ratio=settings.most_ratio))
    for one in made.cohorts:
        _say(f"{one.name}: {one.train_images} images, {', '.join(one.examples)}")
    return made, judge


def _encoder(settings: CohortsSection, data: Path, out: Path, *, seed: int) -> SmallEncoder:
    manifest = DataManifest.load(data)
    real = read_real(data, manifest.train, side=thumbnail_side(manifest), most=2048, seed=0)
    made = SmallEncoder.train(real.thumbnails_NCTT, manifest.digest, seed=seed, steps=settings.encoder_steps)
    made.save(out)
    return made


def _work(config: RunConfig, data: Path, root: Path, cohorts: Cohorts) -> Work:
    folders = tuple(root / "cut" / one.name for one in cohorts.cohorts)
    return Work(config, data, folders, root, shared_tokenizer(folders, config))


def _train(settings: CohortsSection, config: RunConfig, work: Work) -> None:
    """All that is judged, into `work.out`: the longest first, so that the processes end together."""
    apart = shortened(config, settings.images // settings.cohorts)
    tasks: list[Training | RouterTraining] = [Training(work, "one", work.data, shortened(config, settings.images))]
    tasks.append(RouterTraining(work, RouterSettings(images=settings.router_images)))
    tasks += [Training(work, f"expert_{k}", folder, apart) for k, folder in enumerate(work.cohorts, start=1)]
    tasks.append(Training(work, "one_for_a_share", work.data, apart))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for told in pool.map(_done, tasks):
            _say(told)
        if settings.distilled_images:
            distillation = Distillation(work, shortened(config, settings.distilled_images))
            _say(pool.submit(_done, distillation).result())


def _done(task: Training | RouterTraining | Distillation) -> str:
    started = time.monotonic()
    said = task.run()
    return f"{said} after {time.monotonic() - started:.0f} s"


def _judged(settings: CohortsSection, work: Work, encoder: Encoder) -> dict[str, Figure]:
    judge = Judge(work, encoder, settings.pictures)
    cases = {"one": work.model("one"), "one_for_a_share": work.model("one_for_a_share"), "merged": work.merged()}
    cases |= {f"top{k}": work.mixture(k) for k in dict.fromkeys((1, 2, settings.cohorts))}
    if settings.distilled_images:
        cases["distilled"] = work.model("distilled")
    found: dict[str, float] = {}
    for case, model in cases.items():
        figures = judge.figures(model)
        _say(f"{case}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        found |= {f"{name}_{case}": value for name, value in figures.items()}
    found |= judge.bounds()
    for name in ("frechet", "val_loss"):
        for case in cases:
            found[f"ratio_{name}_{case}"] = found[f"{name}_{case}"] / found[f"{name}_one"]
    facts = RouterFacts.load(work.router)
    found |= {f"router_accuracy_t{t:g}": share for t, share in zip(facts.times, facts.accuracy, strict=True)}
    without = zip(facts.times, facts.accuracy_without_caption, strict=True)
    found |= {f"router_accuracy_without_caption_t{t:g}": share for t, share in without}
    return {name: Figure((value,), _unit(name)) for name, value in found.items()}


def _unit(name: str) -> str:
    if name.startswith("ratio"):
        return "1"
    return next(unit for word, unit in _UNITS.items() if word in name)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
