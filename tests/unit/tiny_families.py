"""A tiny model of every family that is exported, and an autoencoder of random weights for those that work on latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL

PIXELS, LATENTS, UNET = "prx", "prx-latent", "unet"
FAMILIES: Final = (PIXELS, LATENTS, UNET)

SIDE: Final = 64
"""Pixels of the two that work on latents, whose side is an eighth of it."""

_OVERRIDES: Final = {
    LATENTS: ("model.kind='prx'",),
    UNET: (
        "model.kind='unet'",
        "model.unet.channels=[32, 64]",
        "model.unet.layers=1",
        "model.unet.heads=2",
        "model.unet.groups=8",
    ),
}


def family_overrides(family: str, autoencoder: Path) -> tuple[str, ...]:
    """What makes the tiny run one of `family`; `autoencoder` is a folder of `save_autoencoder`."""
    if family == PIXELS:
        return ()
    latents = (f"model.latents.autoencoder='{autoencoder}'", "objective.prediction='velocity'", "inner.clip='tensor'")
    return (f"model.image_size={SIDE}", *_OVERRIDES[family], *latents, "inner.batch_images=2")


def save_autoencoder(folder: Path, **config: Any) -> AutoencoderKL:
    """Write an autoencoder of random weights, 4 channels of an eighth of the side, into `folder`."""
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        vae = AutoencoderKL(block_out_channels=[8, 8, 8, 8], norm_num_groups=4, latent_channels=4, **kinds, **config)
    vae.save_pretrained(folder)
    return vae.eval()
