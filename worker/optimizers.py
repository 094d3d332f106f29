"""What happens between two backward passes of a lease, and what delta comes out of it.

The state starts fresh in each lease: that makes a lease recomputable from public facts (docs/benchmarks.md has the
measurements of the alternative).
"""

from __future__ import annotations

from typing import Protocol

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import InnerKind, InnerSection
from diffusion_at_home.wire.layout import Layout


class InnerOptimizer(Protocol):
    """One lease's optimizer."""

    def step(self, num_images: int) -> None:
        """Consume the gradient of the mean loss over `num_images`."""

    def delta(self, base: Tensor) -> Tensor:
        """What the lease learned from `base`, fp32 (n,): base minus trained weights, or the mean gradient."""


class LocalAdamW:
    """Local steps: AdamW with 8-bit (bitsandbytes) or 32-bit state, clipping and a warm-up inside the lease."""

    def __init__(self, section: InnerSection, model: nn.Module, layout: Layout, learning_rate: float) -> None:
        self._section = section
        self._model = model
        self._layout = layout
        self._learning_rate = learning_rate
        self._steps = 0
        self._optimizer = _adamw(section, model, learning_rate)

    def step(self, num_images: int) -> None:  # noqa: ARG002 -- a step is a step whatever the batch
        """See `InnerOptimizer.step`."""
        self._steps += 1
        if self._steps <= self._section.warmup_steps + 1:
            for group in self._optimizer.param_groups:
                group["lr"] = self._learning_rate * min(1.0, self._steps / (self._section.warmup_steps + 1))
        nn.utils.clip_grad_norm_(self._model.parameters(), self._section.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def delta(self, base: Tensor) -> Tensor:
        """See `InnerOptimizer.delta`."""
        return base - self._layout.flatten(self._model)


class GradientMean:
    """No step at all: the mean gradient over the lease's images, for an outer AdamW."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self._model = model
        self._layout = layout
        self._sum = torch.zeros(layout.num_elements)
        self._images = 0

    def step(self, num_images: int) -> None:
        """See `InnerOptimizer.step`."""
        gradients = {name: parameter.grad for name, parameter in self._model.named_parameters()}
        for slot, view in zip(self._layout.slots, self._layout.views(self._sum), strict=True):
            gradient = gradients[slot.name]
            if gradient is not None:
                view.add_(gradient.float().cpu(), alpha=num_images)
        self._model.zero_grad()
        self._images += num_images

    def delta(self, base: Tensor) -> Tensor:  # noqa: ARG002 -- a gradient needs no base
        """See `InnerOptimizer.delta`."""
        return self._sum / max(self._images, 1)


def inner_optimizer(section: InnerSection, model: nn.Module, layout: Layout, learning_rate: float) -> InnerOptimizer:
    """The lease's optimizer over `model`, with fresh state."""
    if section.optimizer is InnerKind.GRADIENT:
        return GradientMean(model, layout)
    return LocalAdamW(section, model, layout, learning_rate)


def _adamw(section: InnerSection, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    betas = (section.beta1, section.beta2)
    if section.optimizer is InnerKind.ADAMW8BIT:
        # Tensors under 4,096 elements (norms, biases) keep 32-bit state: bitsandbytes' own default.
        optimizer: torch.optim.Optimizer = bnb.optim.AdamW8bit(
            model.parameters(), lr=learning_rate, betas=betas, weight_decay=section.weight_decay
        )
        return optimizer
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=betas, weight_decay=section.weight_decay, fused=True
    )
