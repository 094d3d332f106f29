"""When and how all parameters of a lease are updated: after the backward pass, or inside it.

Inside (gradient release): as soon as a tensor's gradient is complete, the tensor is updated and the gradient freed, so that
never more than one tensor's gradient exists. That rules out what needs all gradients at once: clipping by their global
norm, and accumulating them over micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import ClipKind, InnerSection
from worker.step.masters import Master
from worker.step.rules import SLICE_ELEMENTS, UpdateRule


@dataclass(frozen=True, slots=True)
class TensorUpdate:
    """One parameter with its exact value and its optimizer."""

    parameter: nn.Parameter
    master: Master
    rule: UpdateRule
    whole: bool
    """Whether the rule takes the tensor as one, rather than slice by slice."""

    def apply(self, *, learning_rate: float, step: int, clip_norm: float | None) -> None:
        """Consume the gradient; `clip_norm` bounds this tensor's own."""
        if self.parameter.grad is None:
            return
        gradient = self.parameter.grad.view(-1)
        scale = None if clip_norm is None else _clip_scale(gradient, clip_norm)
        size = gradient.numel() if self.whole else SLICE_ELEMENTS
        for begin in range(0, gradient.numel(), size):
            part = gradient[begin : begin + size].float()
            weights = self.master.read(begin, begin + len(part))
            self.rule.apply(
                weights, part if scale is None else part * scale, begin, learning_rate=learning_rate, step=step
            )
            if not self.master.in_place:
                self.master.write(begin, weights)
        self.parameter.grad = None


class LeaseUpdates:
    """The updates of all parameters over one lease: warm-up, clipping, order."""

    def __init__(self, section: InnerSection, updates: Sequence[TensorUpdate], learning_rate: float) -> None:
        self._section = section
        self._updates = updates
        self._learning_rate = learning_rate
        self._step = 1

    def step(self) -> None:
        """Update everything that has a gradient, then count the step."""
        if self._section.clip is ClipKind.GLOBAL:
            nn.utils.clip_grad_norm_([update.parameter for update in self._updates], self._section.clip_norm)
        for update in self._updates:
            self._apply(update)
        self._step += 1

    def state(self) -> list[Tensor]:
        """What all rules keep."""
        return [tensor for update in self._updates for tensor in update.rule.tensors()]

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within, a backward pass updates each parameter itself; `step` then only counts."""
        assert self._section.clip is ClipKind.TENSOR
        handles = [
            update.parameter.register_post_accumulate_grad_hook(self._hook(update))  # type: ignore[no-untyped-call]
            for update in self._updates  # torch leaves the hook's registration untyped
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, update: TensorUpdate) -> Callable[[Tensor], None]:
        return lambda _parameter: self._apply(update)

    @torch.no_grad()
    def _apply(self, update: TensorUpdate) -> None:
        warm = min(1.0, self._step / (self._section.warmup_steps + 1))
        clip_norm = self._section.clip_norm if self._section.clip is ClipKind.TENSOR else None
        update.apply(learning_rate=self._learning_rate * warm, step=self._step, clip_norm=clip_norm)


def _clip_scale(gradient: Tensor, clip_norm: float) -> Tensor:
    """As `torch.nn.utils.clip_grad_norm_` scales, for one tensor; stays on the device."""
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    scale: Tensor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    return scale
