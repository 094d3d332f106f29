"""Parity: a fleet's model against one node's after equal images, on digits.

One node is AdamW with state kept over the whole run, its learning rate the best of a sweep by held-out loss on the
first seed. Both sides see the same images in the same order under the same schedule, and both may publish raw weights
or their EMA, whichever has the lower held-out loss. A ratio compares two trainings of one seed: 1 is par, lower is
better.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import Field

from benchmarks.figures import Figure
from benchmarks.fleets import FLEETS
from benchmarks.parity.task import DigitsTask
from benchmarks.parity.training import Outcome, fleet, one_node
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import Section, load_toml
from diffusion_at_home.config.values import Count, Positive, Rate
from diffusion_at_home.data.digits import DIGIT_WORDS, caption
from diffusion_at_home.evaluation.digits_judge import DigitsJudge, DigitsScore
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.evaluation import Pictures, held_out_loss
from diffusion_at_home.model.sampling import sample
from diffusion_at_home.wire.layout import Layout

_PREFIX: Final = "parity."
CONFIG: Final = Path(__file__).resolve().parents[3] / "configs" / "digits.toml"
_QUICK: Final = ("images=5120", "seeds=1", "learning_rates=[1e-3]", "samples=100")
_UNITS: Final = {
    "ratio": "1",
    "loss": "mean squared velocity error",
    "accuracy": "share",
    "frechet": "1",
    "link": "B/parameter",
}


class ParitySection(Section):
    """What may be changed by `--set parity.key=value`; the run itself by `--set section.key=value`."""

    images: Positive = 38_400
    """Images of each training; the schedule and the EMA of the config shrink with it."""
    workers: Positive = 4
    """Workers of the fleet, which share a round of the config's round.images alike."""
    seeds: Positive = 3
    """Repetitions, with seeds from 0: initial weights, order of the data, noise."""
    learning_rates: tuple[Rate, ...] = (5e-4, 1e-3, 2e-3)
    """One node's sweep."""
    fleets: tuple[str, ...] = ("fp32", "int8")
    """How deltas and updates travel, one fleet each: names of `benchmarks.fleets`."""
    of_node: tuple[str, ...] = ()
    """What else is changed for one node alone: its best batch is not a fleet's."""
    of_fleets: tuple[str, ...] = ()
    """What else is changed for the fleets alone."""
    fleet_images: Count = 0
    """Images of each fleet's training, where it is to have more than one node; 0 is as many."""
    keep_state: bool = False
    """Whether workers keep their AdamW between leases, which the product does not."""
    samples: int = Field(default=500, ge=0)
    """Pictures drawn for class accuracy and Frechet distance; 0 leaves these out."""


class Examiner:
    """Turns a finished training into figures; the judge and the held-out images are the same for all."""

    def __init__(self, config: RunConfig, task: DigitsTask, samples: int) -> None:
        self._config = config
        self._task = task
        self._samples = samples
        self._model = build_model(config.model, config.objective, task.tokenizer, seed=0)
        self._layout = Layout.of(self._model)
        self._judge = DigitsJudge.train(task.gray_MHW, task.labels_M, seed=0)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of the network and its text encoder."""
        return self._layout.num_elements

    def loss(self, weights: torch.Tensor) -> float:
        """Held-out loss of `weights`, fp32 (n,)."""
        self._layout.load(self._model, weights)
        images, captions = self._task.held_out_VCHW, self._task.held_out_captions
        return held_out_loss(self._model, [Pictures(images, captions)], self._config.objective, draws=4, seed=0).mean

    def score(self, weights: torch.Tensor) -> DigitsScore:
        """Judge pictures of `weights`, as many of each digit."""
        self._layout.load(self._model, weights)
        settings, side = self._config.checkpoint, self._config.model.image_size
        labels = np.arange(self._samples) % len(DIGIT_WORDS)
        images_BCHW = sample(
            self._model,
            [caption(label) for label in labels.tolist()],
            steps=settings.sampling_steps,
            guidance_scale=settings.guidance_scale,
            seed=1,
            size=(self._config.model.channels, side, side),
        )
        return self._judge.judge((images_BCHW.mean(dim=1).numpy() + 1) / 2, labels)

    def figures(self, case: str, outcome: Outcome) -> dict[str, float]:
        """Every figure of one training, by metric."""
        raw, ema = self.loss(outcome.published), self.loss(outcome.ema)
        figures = {f"val_loss_{case}": min(raw, ema), f"val_loss_raw_{case}": raw, f"val_loss_ema_{case}": ema}
        if self._samples:
            score = self.score(outcome.published if raw <= ema else outcome.ema)
            figures |= {f"class_accuracy_{case}": score.class_accuracy, f"frechet_{case}": score.frechet_distance}
        if outcome.uplink_bytes:
            figures[f"uplink_bytes_per_parameter_{case}"] = outcome.uplink_bytes / self.num_parameters
            figures[f"downlink_bytes_per_parameter_{case}"] = outcome.downlink_bytes / self.num_parameters
        return figures


@dataclass(frozen=True, slots=True)
class Training:
    """One training to be examined: everything that its process needs."""

    case: str
    config: RunConfig
    workers: int
    """0 is one node."""
    keep_state: bool
    samples: int

    def figures(self) -> dict[str, float]:
        """Train and examine, on one thread: small matrices gain nothing from more, and one thread is one set of bits."""
        torch.set_num_threads(1)
        task = DigitsTask.load(self.config.model.text)
        examiner = Examiner(self.config, task, self.samples)
        started = time.monotonic()
        if self.workers:
            outcome = fleet(self.config, task, workers=self.workers, keep_state=self.keep_state)
        else:
            outcome = one_node(self.config, task)
        figures = examiner.figures(self.case, outcome)
        loss, seconds = figures[f"val_loss_{self.case}"], time.monotonic() - started
        _say(f"{self.case}, seed {self.config.run.seed}: held-out loss {loss:.4f} after {seconds:.0f} s")
        return figures


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    own = [text.removeprefix(_PREFIX) for text in overrides if text.startswith(_PREFIX)]
    parity = load_toml(None, ParitySection, [*(_QUICK if quick else ()), *own])
    changes = [text for text in overrides if not text.startswith(_PREFIX)]
    config = shortened(load_toml(CONFIG, RunConfig, [*changes, *parity.of_node]), parity.images)
    fleets = {
        name: shortened(
            load_toml(CONFIG, RunConfig, [*FLEETS[name], *changes, *parity.of_fleets]),
            parity.fleet_images or parity.images,
        )
        for name in parity.fleets
    }
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        rate = _best_rate(config, parity, pool)
        trainings = [
            training
            for seed in range(parity.seeds)
            for training in _of_seed(config, fleets, parity, seed=seed, rate=rate)
        ]
        found = list(pool.map(Training.figures, trainings))
    return _collect(trainings, found)


def _collect(trainings: Sequence[Training], found: Sequence[dict[str, float]]) -> dict[str, Figure]:
    """All figures by metric, and the ratios of each fleet to one node of the same seed."""
    values: dict[str, list[float]] = defaultdict(list)
    nodes = {t.config.run.seed: figures for t, figures in zip(trainings, found, strict=True) if not t.workers}
    for training, figures in zip(trainings, found, strict=True):
        for name, value in figures.items():
            values[name].append(value)
        if training.workers:
            case, node = training.case, nodes[training.config.run.seed]
            values[f"loss_ratio_{case}"].append(figures[f"val_loss_{case}"] / node["val_loss_one_node"])
            if training.samples:
                values[f"frechet_ratio_{case}"].append(figures[f"frechet_{case}"] / node["frechet_one_node"])
    return {name: Figure(tuple(series), _unit(name)) for name, series in values.items()}


def shortened(config: RunConfig, images: int) -> RunConfig:
    """The config's recipe at `images`: everything that is counted in images keeps its share of the run."""
    share = images / config.run.total_images
    schedule = {
        "warmup_images": int(config.schedule.warmup_images * share),
        "decay_images": int(config.schedule.decay_images * share),
    }
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"total_images": images}),
            "schedule": config.schedule.model_copy(update=schedule),
            "ema": config.ema.model_copy(update={"half_life_images": max(1, int(config.ema.half_life_images * share))}),
        }
    )


def _best_rate(config: RunConfig, parity: ParitySection, pool: Executor) -> float:
    """One node's best rate by held-out loss on the first seed."""
    if len(parity.learning_rates) == 1:
        return parity.learning_rates[0]
    sweep = [
        Training(f"one_node_at_{rate:g}", _variant(config, seed=0, rate=rate), 0, False, samples=0)
        for rate in parity.learning_rates
    ]
    losses = [
        figures[f"val_loss_{t.case}"] for t, figures in zip(sweep, pool.map(Training.figures, sweep), strict=True)
    ]
    return parity.learning_rates[losses.index(min(losses))]


def _of_seed(
    config: RunConfig, fleets: Mapping[str, RunConfig], parity: ParitySection, *, seed: int, rate: float
) -> Iterator[Training]:
    """One node at its best rate, then each fleet at the config's."""
    yield Training("one_node", _variant(config, seed=seed, rate=rate), 0, False, parity.samples)
    for name, of_fleet in fleets.items():
        variant = _variant(of_fleet, seed=seed, rate=of_fleet.inner.learning_rate)
        yield Training(name, variant, parity.workers, parity.keep_state, parity.samples)


def _variant(config: RunConfig, *, seed: int, rate: float) -> RunConfig:
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"seed": seed}),
            "inner": config.inner.model_copy(update={"learning_rate": rate}),
        }
    )


def _unit(metric: str) -> str:
    return next(unit for word, unit in _UNITS.items() if word in metric)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
