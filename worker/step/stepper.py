"""Takes the steps of a lease on a device: forward, backward, update. Knows no network and draws nothing at random."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion_at_home.config.run import ClipKind, RunConfig
from diffusion_at_home.model.base import DiffusionModel, Embeddings
from diffusion_at_home.model.objective import flow_loss
from diffusion_at_home.wire.layout import Layout
from worker.step.compute import Compute
from worker.step.masters import WeightKind
from worker.step.optimizers import InnerOptimizer, StepParts, inner_optimizer
from worker.step.plan import StepPlan
from worker.step.weights import TrainedWeights


@dataclass(frozen=True, slots=True)
class Drawn:
    """A batch, or a part of one, with what was drawn for it."""

    x_BCHW: Tensor
    """fp32 in [-1, 1]."""
    captions: list[str]
    """Dropped ones are empty."""
    t_B: Tensor
    eps_BCHW: Tensor
    weight_B: Tensor
    """Of each image's loss in the step's: one by the number of images, or 0 for what only fills a share up."""
    text: Embeddings | None = None
    """Of `captions`, where the text encoder is frozen."""

    def part(self, begin: int, end: int) -> Drawn:
        """The images from `begin` to `end`."""
        part = slice(begin, end)
        return Drawn(
            self.x_BCHW[part],
            self.captions[part],
            self.t_B[part],
            self.eps_BCHW[part],
            self.weight_B[part],
            None if self.text is None else self.text.at(part),
        )

    def share(self, index: int, num_shares: int) -> Drawn:
        """One of `num_shares` parts of the same size: the last ones are filled up with images that do not count."""
        num_images = len(self.captions)
        size = -(-num_images // num_shares)
        positions = torch.arange(index * size, (index + 1) * size)
        there = positions.clamp(max=num_images - 1)
        return Drawn(
            self.x_BCHW[there],
            [self.captions[position] for position in there.tolist()],
            self.t_B[there],
            self.eps_BCHW[there],
            torch.where(positions < num_images, self.weight_B[there], 0.0),
            None if self.text is None else self.text.at(there.tolist()),
        )


class Stepper(Protocol):
    """What takes the steps of leases, one lease after another; the model stays on the device in between."""

    @property
    def plan(self) -> StepPlan:
        """How it does so."""

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        """Begin a lease: weights at `base`, fp32 (n,) on the CPU; an optimizer of fresh state; `seed` for rounding."""

    def step(self, drawn: Drawn) -> float:
        """One step on a batch; its mean loss."""

    def delta(self) -> Tensor:
        """What the lease learned: base minus trained weights, or the mean gradient; fp32 (n,). Valid until `start`."""

    def close(self) -> None:
        """Give back device and memory."""


class ModelStepper:
    """Steps of a model in this process: of a whole one, or of this process's part of a sharded one."""

    def __init__(
        self, config: RunConfig, model: DiffusionModel, layout: Layout, compute: Compute, plan: StepPlan
    ) -> None:
        """`model` is of the plan's dtype, lies where the plan wants it and is cut if the plan says so.

        `plan` must suit the run: releasing gradients needs inner.clip = "tensor" and whole batches.
        """
        assert not plan.release or (config.inner.clip is ClipKind.TENSOR and not plan.micro_batch_images)
        self.plan = plan
        self._config = config
        self._compute = compute
        self._parts = StepParts(plan, compute)
        self._model = model
        if plan.checkpointing:
            model.recompute_activations()
        self.weights = TrainedWeights(model, layout, plan.weights, self._parts.place, compute.device)
        self.optimizer: InnerOptimizer | None = None
        """Of the lease that was started."""

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        """See `Stepper.start`."""
        self.optimizer = None  # the old state goes before the new one comes
        self._model.zero_grad()
        self.weights.load(base, seed)
        self._model.train()
        self.optimizer = inner_optimizer(self._config, self._model, self.weights, self._parts, learning_rate)

    def accumulate(self, drawn: Drawn) -> Tensor:
        """Forward and backward: adds the gradient of the weighted loss of `drawn`'s images.

        Returns that loss, a scalar on the device. If gradients are released, weights are updated within.
        """
        assert self.optimizer is not None
        size = self.plan.micro_batch_images or len(drawn.captions)
        with self.optimizer.backward():
            losses = [self._backward(drawn.part(begin, begin + size)) for begin in range(0, len(drawn.captions), size)]
        return torch.stack(losses).sum()

    def forget_gradients(self) -> None:
        """As if `accumulate` had not been called; not possible if gradients are released."""
        assert not self.plan.release
        self._model.zero_grad()

    def update(self, num_images: int) -> None:
        """Consume the gradient of the mean loss over `num_images`."""
        assert self.optimizer is not None
        self.optimizer.step(num_images)

    def delta(self, base: Tensor, out: Tensor) -> None:
        """See `InnerOptimizer.delta`."""
        assert self.optimizer is not None
        self.optimizer.delta(base, out)

    def _backward(self, drawn: Drawn) -> Tensor:
        device, plan = self._compute.device, self.plan
        text = self._model.tokenize(drawn.captions) if drawn.text is None else drawn.text
        # Where weights are gathered, they are cast on the way.
        by_autocast = plan.weights is WeightKind.FP32 and not plan.sharded
        with self._compute.precision() if by_autocast else nullcontext():
            loss_B = flow_loss(
                self._model,
                drawn.x_BCHW.to(device),
                text,
                drawn.t_B.to(device),
                drawn.eps_BCHW.to(device),
                self._config.objective,
            )
        loss = loss_B @ drawn.weight_B.to(device)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        return loss.detach()
