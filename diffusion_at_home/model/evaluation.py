"""Held-out loss: how well a version denoises pictures that no worker has trained on.

The training loss is noisy because its times and noise differ at every step; here both are fixed, so two versions of a
run answer exactly the same questions, and a difference of a percent is a difference between the versions.

Shapes: N held-out images of one size, C channels, H height, W width, B images of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_at_home.config.run import ObjectiveSection
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.objective import flow_loss
from diffusion_at_home.model.times import EVALUATED_TIMES

_CHUNK_PIXELS = 2**16  # of all images that are denoised together: 1,024 of 8 x 8, 16 of 64 x 64, one of 256 x 256


@dataclass(frozen=True, slots=True)
class Pictures:
    """Held-out pictures of one size."""

    images_NCHW: Tensor
    """In [-1, 1]."""
    captions: Sequence[str]


@dataclass(frozen=True, slots=True)
class HeldOutLoss:
    """A version's loss on the held-out images; lower is better, inf means that the version is broken."""

    mean: float
    """Mean of `bins`: every time counts alike, unlike in training."""
    bins: tuple[float, ...]
    """Mean squared velocity error at each of the times asked for."""
    images: int
    """Held-out images used; each was noised once for every draw and time."""


@torch.no_grad()
def held_out_loss(
    model: DiffusionModel,
    held_out: Sequence[Pictures],
    objective: ObjectiveSection,
    *,
    draws: int,
    seed: int,
    bins: tuple[float, ...] = EVALUATED_TIMES,
) -> HeldOutLoss:
    """The loss of `model` on all of `held_out`, at each time in `bins`, `draws` noises each.

    Captions are not dropped. The noise comes from `seed` alone, and an image's noise of one draw is shared by all its
    times. A loss that is not finite is returned as inf, never skipped.
    """
    num_images = sum(len(pictures.captions) for pictures in held_out)
    assert num_images > 0
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    totals = [0.0] * len(bins)
    for pictures in held_out:
        for _ in range(draws):
            for x_BCHW, captions in _chunks(pictures):
                text = model.tokenize(captions)
                eps_BCHW = torch.randn(x_BCHW.shape, generator=generator).to(device)
                for index, t in enumerate(bins):
                    t_B = torch.full((len(x_BCHW),), t, device=device)
                    loss_B = flow_loss(model, x_BCHW.to(device), text, t_B, eps_BCHW, objective)
                    totals[index] += loss_B.double().sum().item()
    losses = tuple(_finite_or_inf(total / (draws * num_images)) for total in totals)
    return HeldOutLoss(mean=sum(losses) / len(losses), bins=losses, images=num_images)


def _chunks(pictures: Pictures) -> Iterator[tuple[Tensor, Sequence[str]]]:
    """Images and captions of as many as are denoised together, so that no more embeddings lie in memory."""
    images_NCHW = pictures.images_NCHW
    chunk = max(1, _CHUNK_PIXELS // images_NCHW[0, 0].numel())
    for start in range(0, len(images_NCHW), chunk):
        part = slice(start, start + chunk)
        yield images_NCHW[part].float(), pictures.captions[part]


def _finite_or_inf(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
