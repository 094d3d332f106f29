"""The outer step: a round's mean delta moves the weights.

A delta is base minus trained weights, so it is used as a gradient is: DiLoCo (Douillard et al. 2023, arXiv:2311.08105,
algorithm 1) with SGD and Nesterov momentum, plain averaging (SGD at 1.0), or AdamW when the delta is a plain gradient.
The vector is stepped chunk by chunk, by torch's own optimizers, so that no temporary is as large as the model.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from diffusion_at_home.config.run import OuterKind, OuterSection
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS


def num_moments(kind: OuterKind) -> int:
    """Vectors of state that `kind` keeps besides the weights."""
    return {OuterKind.SGD: 0, OuterKind.NESTEROV: 1, OuterKind.ADAMW: 2}[kind]


def outer_step(
    section: OuterSection, weights: Tensor, moments: list[Tensor], step: int, mean_delta: Iterable[Tensor]
) -> None:
    """Apply `mean_delta` to `weights` and `moments` in place.

    Args:
        section: which optimizer, and its settings.
        weights: fp32 (n,).
        moments: `num_moments` vectors, fp32 (n,), zero before the first step.
        step: outer steps taken before this one.
        mean_delta: the chunks of an fp32 (n,) vector.
    """
    assert len(moments) == num_moments(section.optimizer)
    chunked = [torch.split(vector, CHUNK_ELEMENTS) for vector in (weights, *moments)]
    for delta, target, *state in zip(mean_delta, *chunked, strict=True):
        _step_chunk(section, target, list(state), step, delta)


def _step_chunk(section: OuterSection, weights: Tensor, moments: list[Tensor], step: int, delta: Tensor) -> None:
    weights.grad = delta
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
