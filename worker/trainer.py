"""Trains one lease: base weights and samples in, a delta out. Knows no network.

A lease is recomputable: the same base, samples, seed, learning rate, plan and code give the same delta, bit for bit on the
same kind of machine. Times, noise and dropped captions are drawn from the seed on the CPU, whatever the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_at_home.config.run import ClipKind, RunConfig
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.objective import drop_captions, flow_loss, sample_times
from diffusion_at_home.wire.layout import Layout
from worker.optimizers import InnerOptimizer, StepParts, inner_optimizer
from worker.step.compute import Compute
from worker.step.masters import WeightKind
from worker.step.plan import StepPlan
from worker.step.weights import DTYPES, TrainedWeights

_PLAIN = StepPlan()


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one size, in training order."""

    images_BCHW: Tensor
    """fp32 in [-1, 1]."""
    captions: list[str]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch with what was drawn for it."""

    x_BCHW: Tensor
    captions: list[str]
    """Dropped ones are empty."""
    t_B: Tensor
    eps_BCHW: Tensor

    def part(self, begin: int, end: int) -> Drawn:
        """The images from `begin` to `end`."""
        part = slice(begin, end)
        return Drawn(self.x_BCHW[part], self.captions[part], self.t_B[part], self.eps_BCHW[part])


@dataclass(frozen=True, slots=True)
class Trained:
    """What a lease came to."""

    delta: Tensor
    """base - trained weights, or the mean gradient; fp32 (n,)."""
    images: int
    """Images trained: a prefix of what was leased."""
    seconds: float
    mean_loss: float
    """Mean training loss over `images`."""


class LeaseTrainer:
    """Holds the model on the device from lease to lease."""

    def __init__(
        self,
        config: RunConfig,
        model: DiffusionModel,
        layout: Layout,
        compute: Compute,
        plan: StepPlan = _PLAIN,
    ) -> None:
        """`plan` must suit the run: releasing gradients needs inner.clip = "tensor" and whole batches."""
        assert not plan.release or (config.inner.clip is ClipKind.TENSOR and not plan.micro_batch_images)
        self._config = config
        self._compute = compute
        self._layout = layout
        self._parts = StepParts(plan, compute.device)
        device, dtype = compute.device, DTYPES[plan.weights]
        there = all(parameter.device == device and parameter.dtype is dtype for parameter in model.parameters())
        self._model = model if there else model.to(device=device, dtype=dtype)  # fake parameters cannot be moved
        if plan.checkpointing:
            self._model.recompute_activations()
        self._weights = TrainedWeights(self._model, layout, plan.weights, self._parts.place)

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
        optimizer = self.start(base, seed, learning_rate)
        generator = torch.Generator().manual_seed(seed)
        started, images, loss_sum = time.monotonic(), 0, 0.0
        for batch in batches:
            loss = float(self.step(self._draw(batch, generator), optimizer))
            images += len(batch.captions)
            loss_sum += loss * len(batch.captions)
            on_step(images, loss)
            if should_stop():
                break
        return Trained(optimizer.delta(base), images, time.monotonic() - started, loss_sum / max(images, 1))

    def start(self, base: Tensor, seed: int, learning_rate: float) -> InnerOptimizer:
        """Weights at `base` and an optimizer of fresh state, as every lease begins."""
        self._weights.load(base, seed)
        self._model.train()
        return inner_optimizer(self._config, self._model, self._layout, self._weights, self._parts, learning_rate)

    def step(self, drawn: Drawn, optimizer: InnerOptimizer) -> Tensor:
        """One step on `drawn`; its mean loss as a scalar on the device."""
        num_images = len(drawn.captions)
        size = self._parts.plan.micro_batch_images or num_images
        with optimizer.backward():
            losses = [
                self._backward(drawn.part(begin, begin + size), num_images) for begin in range(0, num_images, size)
            ]
        optimizer.step(num_images)
        return torch.stack(losses).sum()

    def kept(self) -> list[Tensor]:
        """The remainders of exact weights, for whoever counts memory."""
        return [master.remainder for master in self._weights.masters if master.remainder is not None]

    def _draw(self, batch: Batch, generator: torch.Generator) -> Drawn:
        """All that is random in a step, on the CPU."""
        objective, num_images = self._config.objective, len(batch.captions)
        t_B = sample_times(num_images, objective, generator)
        eps_BCHW = torch.randn(batch.images_BCHW.shape, generator=generator)
        captions = drop_captions(batch.captions, objective.caption_dropout, generator)
        return Drawn(batch.images_BCHW, captions, t_B, eps_BCHW)

    def _backward(self, drawn: Drawn, num_images: int) -> Tensor:
        """Adds the gradients of `drawn`'s part of the mean over `num_images` images; returns that part."""
        device = self._compute.device
        tokens = self._model.tokenize(drawn.captions)
        in_fp32 = self._parts.plan.weights is WeightKind.FP32
        with self._compute.precision() if in_fp32 else nullcontext():
            loss_B = flow_loss(
                self._model,
                drawn.x_BCHW.to(device),
                tokens,
                drawn.t_B.to(device),
                drawn.eps_BCHW.to(device),
                self._config.objective,
            )
        loss = loss_B.float().sum() / num_images
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        return loss.detach()
