"""Draws with a checkpoint through stock diffusers, after verifying it: what a downloader's own script would do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from PIL import Image

from diffusion_at_home.checkpoint.manifest import weights_named
from diffusion_at_home.checkpoint.stock import load_pipeline
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, storage_errors

_SMALLEST_SIDE: Final = 256
"""Smaller pictures are enlarged, unsmoothed, so that a person can see them."""


def draw(
    folder: Path, prompt: str, out: Path, *, seed: int, steps: int | None, guidance: float | None, variant: str | None
) -> tuple[int, int]:
    """Draw `prompt` into `out`; returns the picture's own size. Raises `IntegrityError`, `ConfigError`, `StorageError`."""
    manifest = verify(folder)
    if variant is not None and weights_named(variant) not in manifest.variants:
        raise ConfigError(f"{folder} holds {manifest.default_weights} weights alone: leave --variant out")
    chosen = None if weights_named(variant) == manifest.default_weights else variant
    pipeline = load_pipeline(folder, chosen)
    changes = {"num_inference_steps": steps, "guidance_scale": guidance}
    call = {**manifest.call, **{key: value for key, value in changes.items() if value is not None}}
    picture: Image.Image = pipeline(prompt, generator=torch.Generator().manual_seed(seed), **call).images[0]
    size = picture.size
    scale = max(1, _SMALLEST_SIDE // max(size))
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((size[0] * scale, size[1] * scale), Image.Resampling.NEAREST).save(out, format="PNG")
    return size
