"""What happens between two backward passes of a lease, and what delta comes out of it.

The state starts fresh in each lease: that makes a lease recomputable from public facts (docs/benchmarks.md has the
measurements of the alternative).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import InnerKind, InnerSection, RunConfig
from diffusion_at_home.wire.layout import Layout
from worker.step.masters import Master
from worker.step.muon import Muon, is_hidden_matrix
from worker.step.place import OnDevice, OnHost, StatePlace
from worker.step.plan import StepPlan
from worker.step.rules import AdamW32, Codebooks, UpdateRule, adamw8bit
from worker.step.updates import LeaseUpdates, TensorUpdate
from worker.step.weights import TrainedWeights


class StepParts:
    """What a plan means on one device."""

    def __init__(self, plan: StepPlan, device: torch.device) -> None:
        self.plan = plan
        self.place: StatePlace = OnHost(device) if plan.offload else OnDevice(device)
        """Of optimizer state and remainders."""
        self.codebooks = Codebooks(device)


class InnerOptimizer(Protocol):
    """One lease's optimizer."""

    def backward(self) -> AbstractContextManager[None]:
        """What a backward pass runs within."""

    def step(self, num_images: int) -> None:
        """Consume the gradient of the mean loss over `num_images`."""

    def state(self) -> list[Tensor]:
        """What it keeps between steps."""

    def delta(self, base: Tensor) -> Tensor:
        """What the lease learned from `base`, fp32 (n,): base minus trained weights, or the mean gradient."""


class LocalSteps:
    """Local steps: AdamW or Muon on the exact weights, with clipping and a warm-up inside the lease."""

    def __init__(self, section: InnerSection, weights: TrainedWeights, parts: StepParts, learning_rate: float) -> None:
        self._weights = weights
        self._release = parts.plan.release
        updates = [
            _update(section, parameter, master, parts)
            for parameter, master in zip(weights.parameters, weights.masters, strict=True)
        ]
        self._updates = LeaseUpdates(section, updates, learning_rate)

    def state(self) -> list[Tensor]:
        """See `InnerOptimizer.state`."""
        return self._updates.state()

    def backward(self) -> AbstractContextManager[None]:
        """See `InnerOptimizer.backward`."""
        return self._updates.released() if self._release else nullcontext()

    def step(self, num_images: int) -> None:  # noqa: ARG002 -- a step is a step whatever the batch
        """See `InnerOptimizer.step`."""
        self._updates.step()

    def delta(self, base: Tensor) -> Tensor:
        """See `InnerOptimizer.delta`."""
        return self._weights.delta(base)


class GradientMean:
    """No step at all: the mean gradient over the lease's images, for an outer AdamW."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        self._model = model
        self._layout = layout
        self._sum = torch.zeros(layout.num_elements)
        self._images = 0

    def backward(self) -> AbstractContextManager[None]:
        """See `InnerOptimizer.backward`."""
        return nullcontext()

    def state(self) -> list[Tensor]:
        """See `InnerOptimizer.state`."""
        return [self._sum]

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


def inner_optimizer(
    config: RunConfig, model: nn.Module, layout: Layout, weights: TrainedWeights, parts: StepParts, learning_rate: float
) -> InnerOptimizer:
    """The lease's optimizer over `model`, whose exact values are `weights`, with fresh state."""
    if config.inner.optimizer is InnerKind.GRADIENT:
        return GradientMean(model, layout)
    return LocalSteps(config.inner, weights, parts, learning_rate)


def _update(section: InnerSection, parameter: nn.Parameter, master: Master, parts: StepParts) -> TensorUpdate:
    place, num_elements = parts.place, parameter.numel()
    rule: UpdateRule
    if section.optimizer is InnerKind.MUON and is_hidden_matrix(parameter):
        rule = Muon(section, parameter.shape, place)
    elif section.optimizer is InnerKind.ADAMW:
        rule = AdamW32(section, num_elements, place)
    else:
        rule = adamw8bit(section, num_elements, place, parts.codebooks)
    return TensorUpdate(parameter, master, rule, whole=isinstance(rule, Muon))
