"""The training objective: rectified flow with logit-normal times and dropped captions.

Pure functions; x is data, eps unit noise, t the time, 0 at the data and 1 at the noise:

    x_t = (1 - t) x + t eps,    v = dx_t/dt = eps - x          (Liu et al. 2022, arXiv:2209.03003, eq. 1)

Randomness comes from an explicit generator on the CPU, never from a device's own, so that a lease can be computed again
on any other device.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_at_home.config.run import ObjectiveSection, Prediction
from diffusion_at_home.model.base import DiffusionModel, Text

T_MIN = 0.05
"""Least time by which a sample's error is divided; `PRXPixelPipeline` clamps the same way when it samples."""


def sample_times(B: int, objective: ObjectiveSection, generator: torch.Generator) -> Tensor:
    """`B` times t_B in (0, 1), float32 on the CPU: logit(t) ~ N(t_mean, t_std^2).

    Esser et al. 2024 (arXiv:2403.03206), eq. 19.
    """
    return torch.sigmoid(objective.t_mean + objective.t_std * torch.randn(B, generator=generator))


def drop_captions(captions: Sequence[str], share: float, generator: torch.Generator) -> list[str]:
    """`captions`, each replaced by "" with probability `share`: trains the unconditional side of guidance.

    Ho & Salimans 2022 (arXiv:2207.12598), algorithm 1. Always consumes one number a caption, so that a share of 0
    leaves the other draws of the generator where they are.
    """
    dropped_B = torch.rand(len(captions), generator=generator) < share
    return ["" if dropped else caption for caption, dropped in zip(captions, dropped_B.tolist(), strict=True)]


def flow_loss(
    model: DiffusionModel, x_BCHW: Tensor, text: Text, t_B: Tensor, eps_BCHW: Tensor, objective: ObjectiveSection
) -> Tensor:
    """Each image's squared velocity error, averaged over C, H and W: loss_B (float32), to be averaged over B.

    A velocity network is compared with v = eps - x. A network that predicts the sample x_hat implies the velocity
    (x_t - x_hat) / t, whose error is (x_hat - x) / t up to its sign (Li & He 2025, arXiv:2511.13720); t is clamped
    to `T_MIN` from below, without which times near 0 would own the gradient.
    """
    t_B111 = t_B[:, None, None, None]
    x_t_BCHW = (1 - t_B111) * x_BCHW + t_B111 * eps_BCHW
    predicted_BCHW = model(x_t_BCHW, t_B, text).float()
    if objective.prediction is Prediction.SAMPLE:
        error_BCHW = (predicted_BCHW - x_BCHW) / t_B111.clamp(min=T_MIN)
    else:
        error_BCHW = predicted_BCHW - (eps_BCHW - x_BCHW)
    loss_B: Tensor = error_BCHW.square().mean(dim=(1, 2, 3))
    return loss_B
