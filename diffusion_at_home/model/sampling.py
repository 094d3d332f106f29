"""Pictures from a model: its exported scheduler on the rectified flow, with classifier-free guidance, for many captions.

The stock pipelines draw one prompt a call when guidance is on (prx) or only one size; this is the same arithmetic for a
batch, so that grids and evaluations cost little and show exactly what a downloader will get (tests compare the two).

Shapes: B pictures, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_at_home.config.run import Prediction
from diffusion_at_home.model.base import DiffusionModel, Text
from diffusion_at_home.model.objective import T_MIN

_CHUNK_ELEMENTS = 2**16  # H x W of all that is denoised together: 1,024 of 8 x 8, 16 of 64 x 64, one of 256 x 256


def sample(
    model: DiffusionModel,
    captions: Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    size: tuple[int, int, int],
) -> Tensor:
    """Draw one sample a caption in the model's own space: float32 (B, C, H, W) on the CPU, not clipped.

    `size` is (C, H, W): of pictures, about [-1, 1], or of latents, which `draw` decodes. Guidance is w of Ho & Salimans
    2022 (arXiv:2207.12598) in Imagen's form, 1 being none; it is applied where the pipelines apply it, on the network's
    output. The noise is drawn on the CPU and is a function of `seed` and the number of captions.
    """
    assert captions
    assert guidance_scale >= 1
    noise_BCHW = torch.randn(len(captions), *size, generator=torch.Generator().manual_seed(seed))
    chunk = max(1, _CHUNK_ELEMENTS // (size[1] * size[2]))
    device = next(model.parameters()).device
    samples = [
        _denoise(model, noise.to(device), list(captions[start : start + chunk]), steps, guidance_scale).cpu()
        for start, noise in zip(range(0, len(captions), chunk), torch.split(noise_BCHW, chunk), strict=True)
    ]
    return torch.cat(samples)


def draw(
    model: DiffusionModel,
    captions: Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    seed: int,
    size: tuple[int, int, int],
) -> Tensor:
    """Draw one picture a caption: `sample`, decoded where the model works on latents.

    float32 (B, C, H, W) on the CPU, about [-1, 1], not clipped; `size` is that of `sample`. Raises `ConfigError` if the
    autoencoder cannot be loaded.
    """
    samples_BCHW = sample(model, captions, steps=steps, guidance_scale=guidance_scale, seed=seed, size=size)
    if model.decoder is None:
        return samples_BCHW
    return model.decoder(samples_BCHW.to(next(model.parameters()).device))


@torch.no_grad()
def _denoise(model: DiffusionModel, x_BCHW: Tensor, captions: list[str], steps: int, guidance_scale: float) -> Tensor:
    guided = guidance_scale > 1
    text = model.tokenize(captions + [""] * len(captions) if guided else captions)
    scheduler = model.scheduler()
    scheduler.set_timesteps(steps, device=x_BCHW.device)
    for timestep in scheduler.timesteps:
        t = timestep.float() / scheduler.config.num_train_timesteps
        output_BCHW = _predict(model, x_BCHW, t, text)
        if guided:
            conditional_BCHW, unconditional_BCHW = output_BCHW.chunk(2)
            output_BCHW = unconditional_BCHW + guidance_scale * (conditional_BCHW - unconditional_BCHW)
        if model.prediction is Prediction.SAMPLE:
            output_BCHW = (x_BCHW - output_BCHW) / t.clamp(min=T_MIN)
        x_BCHW = scheduler.step(output_BCHW, timestep, x_BCHW, return_dict=False)[0]
    return x_BCHW


def _predict(model: DiffusionModel, x_BCHW: Tensor, t: Tensor, text: Text) -> Tensor:
    """The network's output for every row of `text`, of which there are one or two for each row of `x_BCHW`."""
    rows = len(text.mask_BL)
    output_RCHW: Tensor = model(x_BCHW.repeat(rows // len(x_BCHW), 1, 1, 1), t.expand(rows), text)
    return output_RCHW.float()
