"""The outer step: a round's mean delta moves the weights.

A delta is base minus trained weights, so it is used as a gradient is: DiLoCo (Douillard et al. 2023, arXiv:2311.08105,
algorithm 1) with SGD and Nesterov momentum, plain averaging (SGD at 1.0), or AdamW when the delta is a plain gradient.
By torch's own optimizers, and chunk by chunk, so that no temporary is as large as the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_at_home.config.run import OuterKind, OuterSection


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
    weights.grad = mean_delta
    optimizer: torch.optim.Optimizer
    match section.optimizer:
        case OuterKind.SGD:
            optimizer = torch.optim.SGD([weights], lr=section.learning_rate, foreach=False)
        case OuterKind.NESTEROV:
            optimizer = torch.optim.SGD(
                [weights], lr=section.learning_rate, momentum=section.momentum, nesterov=True, foreach=False
            )
            optimizer.state[weights]["momentum_buffer"] = moments[0]
        case OuterKind.ADAMW:
            optimizer = torch.optim.AdamW(
                [weights],
                lr=section.learning_rate,
                betas=(section.momentum, section.beta2),
                weight_decay=section.weight_decay,
                foreach=False,
            )
            state = {"step": torch.tensor(float(step)), "exp_avg": moments[0], "exp_avg_sq": moments[1]}
            optimizer.state[weights].update(state)
    optimizer.step()
    weights.grad = None
