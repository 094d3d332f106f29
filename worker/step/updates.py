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
from torch.distributed.tensor import DTensor

from diffusion_at_home.config.run import ClipKind, InnerSection
from worker.step.masters import Master
from worker.step.place import StatePlace
from worker.step.rules import SLICE_ELEMENTS, UpdateRule
from worker.step.shards import local


@dataclass(frozen=True, slots=True)
class TensorUpdate:
    """One parameter, or this device's part of it, with its exact value and its optimizer."""

    parameter: nn.Parameter
    master: Master
    rule: UpdateRule
    whole: bool
    """Whether the rule takes the tensor as one, rather than slice by slice."""

    def apply(self, place: StatePlace, *, learning_rate: float, step: int, clip_norm: float | None) -> None:
        """Consume the gradient; `clip_norm` bounds that of the whole tensor, on however many devices it lies."""
        if self.parameter.grad is None:
            return
        gradient = local(self.parameter.grad).view(-1)
        scale = None if clip_norm is None else _clip_scale(self.parameter.grad, clip_norm)
        size = max(gradient.numel(), 1) if self.whole else SLICE_ELEMENTS
        for begin in range(0, gradient.numel(), size):
            part = slice(begin, min(begin + size, gradient.numel()))
            kept = self.master.kept(part)
            with place.at_hand([*kept, *self.rule.state(part)]) as at_hand:
                weights = self.master.read(part, at_hand[: len(kept)])
                given = gradient[part].to(device=weights.device, dtype=torch.float32)
                if scale is not None:
                    given = given * scale.to(weights.device)
                self.rule.apply(weights, given, at_hand[len(kept) :], learning_rate=learning_rate, step=step)
                if not self.master.in_place:
                    self.master.write(part, weights, at_hand[: len(kept)])
        self.parameter.grad = None

    def state(self) -> list[Tensor]:
        """What the rule keeps."""
        return self.rule.state(slice(0, self.master.num_elements))


class LeaseUpdates:
    """The updates of all parameters over one lease: warm-up, clipping, order."""

    def __init__(
        self, section: InnerSection, updates: Sequence[TensorUpdate], place: StatePlace, learning_rate: float
    ) -> None:
        self._section = section
        self._updates = updates
        self._place = place
        self._learning_rate = learning_rate
        self._step = 1
        self._released = False

    def step(self) -> None:
        """Update everything that has a gradient, then count the step."""
        if not self._released:
            self._place.begin_step()
        if self._section.clip is ClipKind.GLOBAL:
            nn.utils.clip_grad_norm_([update.parameter for update in self._updates], self._section.clip_norm)
        for update in self._updates:
            self._apply(update)
        self._step += 1

    def state(self) -> list[Tensor]:
        """What all rules keep."""
        return [tensor for update in self._updates for tensor in update.state()]

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within, a backward pass updates each parameter itself; `step` then only counts."""
        assert self._section.clip is ClipKind.TENSOR
        self._released = True
        self._place.begin_step()
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
        update.apply(self._place, learning_rate=self._learning_rate * warm, step=self._step, clip_norm=clip_norm)


def _clip_scale(gradient: Tensor, clip_norm: float) -> Tensor:
    """As `torch.nn.utils.clip_grad_norm_` scales, for one tensor; stays where the gradient lies."""
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()  # of all devices' parts
    scale: Tensor = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    return scale
