"""The outer step: a round's mean delta moves the weights.

A delta is base minus trained weights, so it is used as a gradient is: DiLoCo (Douillard et al. 2023, arXiv:2311.08105,
algorithm 1) with SGD and Nesterov momentum, plain averaging (SGD at 1.0), or AdamW when the delta is a plain gradient.
By torch's own optimizers, and chunk by chunk, so that no temporary is as large as the model. As functions, since to make an
object of an optimizer loads torch's compiler, for as long as torch itself takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from diffusion_at_home.config.run import OuterKind, OuterSection

_EPSILON: Final = 1e-8
"""Of AdamW, as torch has it."""


def num_moments(kind: OuterKind) -> int:
    """Vectors of state that `kind` keeps besides the weights."""
    return {OuterKind.SGD: 0, OuterKind.NESTEROV: 1, OuterKind.ADAMW: 2}[kind]


def outer_step(
    section: OuterSection, weights: Tensor, moments: Sequence[Tensor], step: int, mean_delta: Tensor
) -> None:
    """Apply `mean_delta` to `weights` and `moments` in place, a chunk of a run's vectors or all of them.

    Args:
        section: which optimizer, and its settings.
        weights: fp32 (n,).
        moments: `num_moments` vectors, fp32 (n,), zero before the first step.
        step: outer steps taken before this one.
        mean_delta: fp32 (n,).
    """
    assert len(moments) == num_moments(section.optimizer)
    assert weights.shape == mean_delta.shape
    match section.optimizer:
        case OuterKind.SGD:
            _sgd(section, weights, mean_delta, None)
        case OuterKind.NESTEROV:
            _sgd(section, weights, mean_delta, moments[0])
        case OuterKind.ADAMW:
            adamw(
                [weights],
                [mean_delta],
                [moments[0]],
                [moments[1]],
                [],
                [torch.tensor(float(step))],
                foreach=False,
                amsgrad=False,
                beta1=section.momentum,
                beta2=section.beta2,
                lr=section.learning_rate,
                weight_decay=section.weight_decay,
                eps=_EPSILON,
                maximize=False,
            )


def _sgd(section: OuterSection, weights: Tensor, mean_delta: Tensor, moment: Tensor | None) -> None:
    """With Nesterov momentum, if there is a moment."""
    sgd(
        [weights],
        [mean_delta],
        [moment],
        foreach=False,
        weight_decay=0.0,
        momentum=0.0 if moment is None else section.momentum,
        lr=section.learning_rate,
        dampening=0.0,
        nesterov=moment is not None,
        maximize=False,
    )
