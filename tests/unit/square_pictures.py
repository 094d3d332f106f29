"""A data set of squares, small enough to train an autoencoder on within a second."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw

from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.shards import Sample, write_shard
from diffusion_at_home.model.autoencoder_training import AutoencoderTraining

SIDE = 8
_SMALL = ("block_out_channels=[8, 8]", "groups=4", "batch_images=8", "learning_rate=1e-2")


def build_squares(folder: Path) -> DataManifest:
    """Two shards of two shapes, and one that is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    wide = (2 * SIDE, SIDE)
    manifest = DataManifest(
        name="squares",
        source="made for a test",
        license="CC0-1.0",
        train=(
            write_shard(folder / "train-0.tar", squares(20), (SIDE, SIDE)),
            write_shard(folder / "train-1.tar", squares(12, wide), wide),
        ),
        held_out=(write_shard(folder / "held-out-0.tar", squares(4), (SIDE, SIDE)),),
    )
    manifest.save(folder)
    return manifest


def squares(count: int, size: tuple[int, int] = (SIDE, SIDE)) -> list[Sample]:
    made = []
    for index in range(count):
        picture = Image.new("RGB", size, "white")
        place = index % 4
        ImageDraw.Draw(picture).rectangle((place, place, place + 3, place + 3), fill=(40 * (index % 6), 90, 10))
        png = io.BytesIO()
        picture.save(png, "PNG")
        made.append(Sample(f"k{index}", png.getvalue(), "png", "a square", "here", "CC0-1.0"))
    return made


def small_training(*overrides: str) -> AutoencoderTraining:
    """Of a few thousand parameters."""
    return load_toml(None, AutoencoderTraining, [*_SMALL, *overrides])
