"""Pictures from a model: Euler's method on the rectified flow, with classifier-free guidance, for many captions.

The exported pipeline draws one prompt a call when guidance is on; this is the same arithmetic for a batch, so that
grids and evaluations cost little and show exactly what a downloader will get (a test compares the two).

Shapes: B pictures, C channels, H height, W width, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion_at_home.model.base import DiffusionModel, Tokens
from diffusion_at_home.model.objective import T_MIN

_NUM_TRAIN_TIMESTEPS = 1000  # the scheduler's resolution: its last step before 0 starts at t = 1 / 1000
_CHUNK_PIXELS = 2**16  # of all pictures that are denoised together: 1,024 of 8 x 8, 16 of 64 x 64, one of 256 x 256


def time_grid(steps: int) -> Tensor:
    """The S + 1 times (float32) of `steps` Euler steps from 1 down to 0, as the exported scheduler sets them."""
    t_S = np.linspace(_NUM_TRAIN_TIMESTEPS, 1, steps) / _NUM_TRAIN_TIMESTEPS
    return torch.from_numpy(np.append(t_S, 0.0)).float()


def sample(
    model: DiffusionModel,
    captions: Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    size: tuple[int, int, int],
) -> Tensor:
    """Draw one picture a caption, of `size` = (C, H, W): float32 (B, C, H, W) on the CPU, about [-1, 1], not clipped.

    `model` must predict samples. Guidance is w of Ho & Salimans 2022 (arXiv:2207.12598) in Imagen's form, 1 being none;
    it is applied where the pipeline applies it, on the predicted sample. The noise is drawn on the CPU and is a
    function of `seed` and the number of captions.
    """
    assert guidance_scale >= 1
    device = next(model.parameters()).device
    noise_BCHW = torch.randn(len(captions), *size, generator=torch.Generator().manual_seed(seed))
    chunk = max(1, _CHUNK_PIXELS // (size[1] * size[2]))
    pictures = [
        _euler(model, noise.to(device), list(captions[start : start + chunk]), time_grid(steps), guidance_scale).cpu()
        for start, noise in zip(range(0, len(captions), chunk), torch.split(noise_BCHW, chunk), strict=True)
    ]
    return torch.cat(pictures) if pictures else noise_BCHW


@torch.no_grad()
def _euler(model: DiffusionModel, x_BCHW: Tensor, captions: list[str], t_S1: Tensor, guidance_scale: float) -> Tensor:
    guided = guidance_scale > 1
    tokens = model.tokenize(captions + [""] * len(captions) if guided else captions)
    for t, t_next in zip(t_S1[:-1].tolist(), t_S1[1:].tolist(), strict=True):
        sample_BCHW = _predict(model, x_BCHW, t, tokens)
        if guided:
            conditional_BCHW, unconditional_BCHW = sample_BCHW.chunk(2)
            sample_BCHW = unconditional_BCHW + guidance_scale * (conditional_BCHW - unconditional_BCHW)
        v_BCHW = (x_BCHW - sample_BCHW) / max(t, T_MIN)
        x_BCHW = x_BCHW + (t_next - t) * v_BCHW
    return x_BCHW


def _predict(model: DiffusionModel, x_BCHW: Tensor, t: float, tokens: Tokens) -> Tensor:
    """The predicted sample for every row of `tokens`, of which there are one or two for each row of `x_BCHW`."""
    rows = len(tokens.ids_BL)
    t_R = torch.full((rows,), t, device=x_BCHW.device)
    predicted_RCHW: Tensor = model(x_BCHW.repeat(rows // len(x_BCHW), 1, 1, 1), t_R, tokens)
    return predicted_RCHW.float()
