"""Trains a router on all cohorts: each batch has noisy pictures of all of them, in the shares in which they are in the data.

Times are uniform, for every step of a sampler asks the router once; captions are dropped as in the run, so that it answers
without one too. A function of data, config and settings on one machine and number of threads.

Shapes: B pictures, K cohorts, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from diffusion_at_home.cohorts.description import Cohorts
from diffusion_at_home.cohorts.router import RouterFacts, RouterSettings, build_router, check_family, facts_of, route
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.manifest import DataManifest, ShardEntry, Size
from diffusion_at_home.data.order import sample_order, shard_order
from diffusion_at_home.data.shards import Sample, decode_images, read_shard
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.objective import drop_captions
from diffusion_at_home.model.text import run_tokenizer
from diffusion_at_home.model.times import EVALUATED_TIMES

_MOST_TESTED: Final = 1024  # held-out pictures of each cohort
_CLIP_NORM: Final = 1.0


@dataclass(frozen=True, slots=True)
class RouterBatch:
    """Pictures of one size."""

    images_BCHW: Tensor
    captions: list[str]
    cohorts_B: Tensor
    """int64: where each comes from."""


class Pool:
    """The samples of all cohorts, read shard by shard: one of each cohort and size at a time."""

    def __init__(self, folders: Sequence[Path], channels: int, seed: int) -> None:
        self._channels = channels
        self._generator = torch.Generator().manual_seed(seed)
        self._streams: dict[Size, dict[int, Iterator[Sample]]] = {}
        self._counts: dict[Size, dict[int, int]] = {}
        for k, folder in enumerate(folders):
            manifest = DataManifest.load(folder)
            for size in dict.fromkeys(entry.size for entry in manifest.train):
                entries = [entry for entry in manifest.train if entry.size == size]
                self._streams.setdefault(size, {})[k] = _endless(folder, entries, seed)
                self._counts.setdefault(size, {})[k] = sum(entry.num_samples for entry in entries)

    def draw(self, num_images: int) -> RouterBatch:
        """The next batch: of one size, by their shares, and of its cohorts, by theirs."""
        sizes = list(self._counts)
        size = sizes[self._pick([sum(self._counts[one].values()) for one in sizes], 1)[0]]
        cohorts = list(self._counts[size])
        chosen = [cohorts[place] for place in self._pick(list(self._counts[size].values()), num_images)]
        samples = [next(self._streams[size][k]) for k in chosen]
        images_BCHW = decode_images(samples, size, self._channels)
        return RouterBatch(images_BCHW, [sample.caption for sample in samples], torch.tensor(chosen))

    def _pick(self, weights: list[int], count: int) -> list[int]:
        shares = torch.tensor(weights, dtype=torch.float64)
        found: list[int] = torch.multinomial(shares, count, replacement=True, generator=self._generator).tolist()
        return found


def train_router(
    folder: Path,
    config: RunConfig,
    settings: RouterSettings,
    *,
    device: torch.device,
    on_images: Callable[[int, float], None] = lambda _images, _loss: None,
) -> tuple[DiffusionModel, RouterFacts]:
    """A router for the cohorts in `folder` and experts of `config`; `on_images` hears of images and loss of each step.

    Raises `ConfigError` if there is no pipeline for such experts, `DataError`.
    """
    check_family(config)
    cohorts = Cohorts.load(folder)
    folders = [folder / cohort.name for cohort in cohorts.cohorts]
    router = build_router(config, settings, shared_tokenizer(folders, config)).to(device)
    pool, generator = Pool(folders, config.model.channels, settings.seed), torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(router.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    router.train()
    for images in range(0, settings.images, settings.batch_images):
        batch = pool.draw(settings.batch_images)
        t_B = torch.rand(len(batch.captions), generator=generator)
        captions = drop_captions(batch.captions, config.objective.caption_dropout, generator)
        logits_BK = _logits(router, batch.images_BCHW, captions, t_B, generator, len(folders))
        loss = F.cross_entropy(logits_BK, batch.cohorts_B.to(device))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * images / settings.images))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        nn.utils.clip_grad_norm_(router.parameters(), _CLIP_NORM)
        optimizer.step()
        on_images(images + len(batch.captions), float(loss.detach()))
    router.eval()
    tested = _held_out(folders, config.model.channels)
    counts = torch.bincount(torch.cat([batch.cohorts_B for batch in tested]))
    return router, facts_of(cohorts, settings, _accuracies(router, tested), float(counts.max() / counts.sum()))


def shared_tokenizer(folders: Sequence[Path], config: RunConfig) -> bytes:
    """The tokenizer of all cohorts and of the router.

    A function of all their captions and `model.text`: whoever asks gets the same bytes.
    """

    def captions() -> Iterator[str]:
        for folder in folders:
            for entry in DataManifest.load(folder).train:
                yield from (sample.caption for sample in read_shard(folder / entry.name, entry))

    return run_tokenizer(captions(), config.model.text)


def _endless(folder: Path, entries: Sequence[ShardEntry], seed: int) -> Iterator[Sample]:
    """Epoch after epoch in the order of a run."""
    epoch = 0
    while True:
        for shard in shard_order(seed, epoch, len(entries)):
            samples = read_shard(folder / entries[shard].name, entries[shard])
            yield from (samples[index] for index in sample_order(seed, epoch, shard, len(samples)))
        epoch += 1


def _logits(
    router: DiffusionModel,
    x_BCHW: Tensor,
    captions: Sequence[str],
    t_B: Tensor,
    generator: torch.Generator,
    num_cohorts: int,
) -> Tensor:
    """Of pictures with noise, on the router's device."""
    device = next(router.parameters()).device
    eps_BCHW, t_B111 = torch.randn(x_BCHW.shape, generator=generator), t_B[:, None, None, None]
    noisy_BCHW = (1 - t_B111) * x_BCHW + t_B111 * eps_BCHW
    return route(router, noisy_BCHW.to(device), t_B.to(device), router.tokenize(captions), num_cohorts)


def _held_out(folders: Sequence[Path], channels: int) -> list[RouterBatch]:
    found = list[RouterBatch]()
    for k, folder in enumerate(folders):
        left = _MOST_TESTED
        for entry in DataManifest.load(folder).held_out:
            samples = read_shard(folder / entry.name, entry)[:left]
            left -= len(samples)
            if samples:
                images_BCHW = decode_images(samples, entry.size, channels)
                labels_B = torch.full((len(samples),), k)
                found.append(RouterBatch(images_BCHW, [sample.caption for sample in samples], labels_B))
    return found


@torch.no_grad()
def _accuracies(router: DiffusionModel, tested: Sequence[RouterBatch]) -> dict[float, tuple[float, float]]:
    """Of held-out pictures by time: with their captions, and without."""
    num_cohorts = max(int(batch.cohorts_B[0]) for batch in tested) + 1

    def right(t: float, *, told: bool) -> float:
        generator, found, total = torch.Generator().manual_seed(0), 0, 0
        for batch in tested:
            captions = batch.captions if told else [""] * len(batch.captions)
            t_B = torch.full((len(captions),), t)
            logits_BK = _logits(router, batch.images_BCHW, captions, t_B, generator, num_cohorts)
            found += int((logits_BK.argmax(dim=1).cpu() == batch.cohorts_B).sum())
            total += len(captions)
        return found / total

    return {t: (right(t, told=True), right(t, told=False)) for t in EVALUATED_TIMES}
