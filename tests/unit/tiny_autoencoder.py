"""An autoencoder of random weights that halves the sides of the tiny run's squares, and its latents of them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from diffusion_at_home.data.encode import encode
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.model.autoencoder import encoder_of, open_autoencoder
from tests.unit.tiny_data import build_tiny_data

CHANNELS = 2
FACTOR = 2


def save_tiny_autoencoder(folder: Path, seed: int = 0, **config: float | None) -> None:
    """A diffusers folder; `config` overrides what it says of itself."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        autoencoder = AutoencoderKL(
            block_out_channels=[4, 4],
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            norm_num_groups=2,
            latent_channels=CHANNELS,
            **({"scaling_factor": 2.0} | config),
        )
    autoencoder.save_pretrained(folder)


def encode_tiny_data(root: Path) -> DataManifest:
    """Pictures in root/pictures, the autoencoder in root/autoencoder, latents in root/latents."""
    build_tiny_data(root / "pictures")
    save_tiny_autoencoder(root / "autoencoder")
    autoencoder = open_autoencoder(str(root / "autoencoder"), named_by="a test")
    return encode(root / "pictures", root / "latents", encoder_of(autoencoder))


def latent_overrides(root: Path) -> tuple[str, ...]:
    """What makes the tiny run one on the latents in `root`."""
    return (
        f"data.path='{root / 'latents'}'",
        f"model.latents.autoencoder='{root / 'autoencoder'}'",
        f"model.latents.channels={CHANNELS}",
        f"model.latents.factor={FACTOR}",
        "objective.prediction='velocity'",
    )
