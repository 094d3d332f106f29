"""Trains one lease: base weights and samples in, a delta out. Knows no network, and no device.

A lease is recomputable: the same base, samples, seed, learning rate, plan and code give the same delta, bit for bit on the
same kind of machine. Times, noise, dropped captions and latents are drawn from the seed on the CPU, whatever the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_at_home.config.run import ObjectiveSection, RunConfig
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.model.base import Embeddings
from diffusion_at_home.model.objective import drop_captions, sample_times
from worker.step.stepper import Drawn, Stepper


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one size, in training order."""

    images_BCHW: Tensor
    """fp32 in [-1, 1]; or the means of latents."""
    captions: list[str]
    spread_BC11: Tensor | None = None
    """Of latents: the standard deviation with which they are drawn around their means."""
    text: Embeddings | None = None
    """Where the text encoder is frozen: of the captions, and in the last row, one more, of the empty one."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a lease came to."""

    delta: Tensor
    """base - trained weights, or the mean gradient; fp32 (n,). Valid until the next lease is trained."""
    images: int
    """Images trained: a prefix of what was leased."""
    seconds: float
    mean_loss: float
    """Mean training loss over `images`."""
    weights: KeptWeights
    """How they were kept in all of it."""


class LeaseTrainer:
    """Trains lease after lease of one run; `stepper` takes the steps."""

    def __init__(self, config: RunConfig, stepper: Stepper) -> None:
        self.stepper = stepper
        self._objective = config.objective

    def train(
        self,
        base: Tensor,
        batches: Iterable[Batch],
        *,
        seed: int,
        learning_rate: float,
        should_stop: Callable[[], bool] = lambda: False,
        on_step: Callable[[int, float], None] = lambda _images, _loss: None,
    ) -> Trained:
        """Train `batches` in order from `base`, fp32 (n,).

        Args:
            base: the weights of the lease's base version.
            batches: read one by one, so that they may be decoded meanwhile.
            seed: of times, noise and dropped captions.
            learning_rate: the inner rate after the run's schedule.
            should_stop: asked after each step; True hands in what there is.
            on_step: told the images trained so far and the loss of each step.
        """
        stepper, generator = self.stepper, torch.Generator().manual_seed(seed)
        stepper.start(base, seed, learning_rate)
        started, images, loss_sum = time.monotonic(), 0, 0.0
        for batch in batches:
            loss = stepper.step(draw(batch, self._objective, generator))
            images += len(batch.captions)
            loss_sum += loss * len(batch.captions)
            on_step(images, loss)
            if should_stop():
                break
        delta = stepper.delta()
        kept = stepper.plan.weights.kept
        return Trained(delta, images, time.monotonic() - started, loss_sum / max(images, 1), kept)


def draw(batch: Batch, objective: ObjectiveSection, generator: torch.Generator) -> Drawn:
    """All that is random in a step, on the CPU."""
    num_images = len(batch.captions)
    t_B = sample_times(num_images, objective, generator)
    eps_BCHW = torch.randn(batch.images_BCHW.shape, generator=generator)
    captions = drop_captions(batch.captions, objective.caption_dropout, generator)
    x_BCHW = batch.images_BCHW
    if batch.spread_BC11 is not None:
        x_BCHW = x_BCHW + batch.spread_BC11 * torch.randn(x_BCHW.shape, generator=generator)
    text = None
    if batch.text is not None:  # a dropped caption is the empty one
        text = batch.text.at([index if caption else num_images for index, caption in enumerate(captions)])
    return Drawn(x_BCHW, captions, t_B, eps_BCHW, torch.full((num_images,), 1 / num_images), text)
