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
from worker.step.compute import Compute
from worker.step.muon import Muon, hidden_matrices
from worker.step.place import OnDevice, OnHost, StatePlace
from worker.step.plan import Offload, StepPlan
from worker.step.rules import AdamW32, Codebooks, UpdateRule, adamw8bit
from worker.step.shards import local
from worker.step.updates import LeaseUpdates, TensorUpdate
from worker.step.weights import Piece, TrainedWeights


class StepParts:
    """What a plan means on one device."""

    def __init__(self, plan: StepPlan, compute: Compute) -> None:
        self.plan = plan
        self.device = compute.device
        on_host = plan.offload is not Offload.NOTHING
        self.place: StatePlace = OnHost(compute.device) if on_host else OnDevice(compute.device)
        """Of optimizer state and remainders."""
        self.codebooks = Codebooks(compute.device)


class InnerOptimizer(Protocol):
    """One lease's optimizer."""

    def backward(self) -> AbstractContextManager[None]:
        """What a backward pass runs within."""

    def step(self, num_images: int) -> None:
        """Consume the gradient of the mean loss over `num_images`."""

    def state(self) -> list[Tensor]:
        """What it keeps between steps."""

    def delta(self, base: Tensor, out: Tensor) -> None:
        """What the lease learned from `base`, into `out`, fp32 (n,): base minus trained weights, or the mean gradient.

        Writes the elements that lie on this device; `out` may be `base`.
        """


class LocalSteps:
    """Local steps: AdamW or Muon on the exact weights, with clipping and a warm-up inside the lease."""

    def __init__(
        self, section: InnerSection, model: nn.Module, weights: TrainedWeights, parts: StepParts, learning_rate: float
    ) -> None:
        self._weights = weights
        self._release = parts.plan.release
        parts.place.begin_lease()
        matrices = hidden_matrices(model) if section.optimizer is InnerKind.MUON else set()
        updates = [_update(section, piece, piece.parameter in matrices, parts) for piece in weights.pieces]
        self._updates = LeaseUpdates(section, updates, parts.place, learning_rate)

    def state(self) -> list[Tensor]:
        """See `InnerOptimizer.state`."""
        return self._updates.state()

    def backward(self) -> AbstractContextManager[None]:
        """See `InnerOptimizer.backward`."""
        return self._updates.released() if self._release else nullcontext()

    def step(self, num_images: int) -> None:  # noqa: ARG002 -- a step is a step whatever the batch
        """See `InnerOptimizer.step`."""
        self._updates.step()

    def delta(self, base: Tensor, out: Tensor) -> None:
        """See `InnerOptimizer.delta`."""
        self._weights.delta(base, out)


class GradientMean:
    """No step at all: the mean gradient over the lease's images, for an outer AdamW. Kept on the host."""

    def __init__(self, weights: TrainedWeights) -> None:
        self._pieces = weights.pieces
        self._sums = [torch.zeros(piece.master.num_elements) for piece in self._pieces]
        self._images = 0

    def backward(self) -> AbstractContextManager[None]:
        """See `InnerOptimizer.backward`."""
        return nullcontext()

    def state(self) -> list[Tensor]:
        """See `InnerOptimizer.state`."""
        return self._sums

    def step(self, num_images: int) -> None:
        """See `InnerOptimizer.step`."""
        for piece, summed in zip(self._pieces, self._sums, strict=True):
            if piece.parameter.grad is not None:
                summed.add_(local(piece.parameter.grad).view(-1).float().cpu(), alpha=num_images)
                piece.parameter.grad = None
        self._images += num_images

    def delta(self, base: Tensor, out: Tensor) -> None:  # noqa: ARG002 -- a gradient needs no base
        """See `InnerOptimizer.delta`."""
        for piece, summed in zip(self._pieces, self._sums, strict=True):
            torch.div(summed, max(self._images, 1), out=out[piece.offset : piece.offset + len(summed)])


def inner_optimizer(
    config: RunConfig, model: nn.Module, weights: TrainedWeights, parts: StepParts, learning_rate: float
) -> InnerOptimizer:
    """The lease's optimizer over `model`, whose exact values are `weights`, with fresh state."""
    if config.inner.optimizer is InnerKind.GRADIENT:
        return GradientMean(weights)
    return LocalSteps(config.inner, model, weights, parts, learning_rate)


def _update(section: InnerSection, piece: Piece, is_matrix: bool, parts: StepParts) -> TensorUpdate:
    place, num_elements = parts.place, piece.master.num_elements
    rule: UpdateRule
    if is_matrix:
        rule = Muon(section, piece.parameter.shape, place)
    elif section.optimizer is InnerKind.ADAMW:
        rule = AdamW32(section, num_elements, place)
    else:
        rule = adamw8bit(section, num_elements, place, parts.codebooks)
    return TensorUpdate(piece.parameter, piece.master, rule, whole=is_matrix)
