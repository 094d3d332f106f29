"""The sample grid: what a version draws for the run's own captions, a row a caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.sampling import draw

_SMALLEST_CELL: Final = 64
_LARGEST_CELL: Final = 256
_GAP: Final = 4
_LABEL_WIDTH: Final = 180


def draw_grid(model: DiffusionModel, config: RunConfig, path: Path) -> None:
    """Draw `checkpoint.grid_columns` pictures for each of `checkpoint.grid_prompts` into the PNG `path`."""
    section = config.checkpoint
    prompts = section.grid_prompts or ("",)
    captions = [prompt for prompt in prompts for _ in range(section.grid_columns)]
    pictures = draw(
        model,
        captions,
        steps=section.sampling_steps,
        guidance_scale=section.guidance_scale,
        seed=config.run.seed,
        size=config.model.sample_shape,
    )
    compose_grid(pictures, prompts, section.grid_columns).save(path, format="PNG")


def compose_grid(pictures_BCHW: Tensor, labels: Sequence[str], columns: int) -> Image.Image:
    """Lay pictures in [-1, 1] out in rows of `columns`, each row with its label; small ones enlarged, unsmoothed."""
    assert len(pictures_BCHW) == len(labels) * columns
    side = max(pictures_BCHW.shape[-2:])
    scale = -(-_SMALLEST_CELL // side) if side < _SMALLEST_CELL else min(1.0, _LARGEST_CELL / side)
    cell = (round(pictures_BCHW.shape[-1] * scale), round(pictures_BCHW.shape[-2] * scale))
    width = _LABEL_WIDTH + columns * (cell[0] + _GAP) + _GAP
    grid = Image.new("RGB", (width, len(labels) * (cell[1] + _GAP) + _GAP), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(size=14)
    for row, label in enumerate(labels):
        top = _GAP + row * (cell[1] + _GAP)
        pen.text((8, top + cell[1] // 2), label, fill="black", font=font, anchor="lm")
        for column in range(columns):
            picture = to_image(pictures_BCHW[row * columns + column])
            resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
            grid.paste(picture.resize(cell, resampling), (_LABEL_WIDTH + _GAP + column * (cell[0] + _GAP), top))
    return grid


def to_image(picture_CHW: Tensor) -> Image.Image:
    """One picture in [-1, 1], clipped, as 8-bit RGB."""
    levels = ((picture_CHW.clamp(-1, 1) + 1) * 127.5).round().byte()
    levels = levels.expand(3, -1, -1) if levels.shape[0] == 1 else levels
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
