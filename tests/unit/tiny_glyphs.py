"""A data set of glyphs: one picture a caption, a colour word and a shape word; some pairs are held out."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.shards import Sample, write_shard
from diffusion_at_home.evaluation.gallery import RealPictures

SIDE = 16
COLOURS = {
    "red": (200, 20, 20),
    "green": (20, 160, 30),
    "blue": (30, 40, 220),
    "black": (10, 10, 10),
    "yellow": (250, 220, 10),
    "pink": (250, 110, 200),
    "grey": (140, 140, 140),
    "cyan": (20, 210, 220),
}
SHAPES = {
    "bar": 0x0FF0,
    "post": 0x6666,
    "box": 0xF99F,
    "dot": 0x0660,
    "step": 0x8CEF,
    "roof": 0x6F90,
    "corner": 0xF888,
    "cross": 0x4E44,
    "waves": 0xA5A5,
}
HELD_OUT_EVERY = 6


def glyphs(*, held_out: bool) -> RealPictures:
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    chosen = [pair for index, pair in enumerate(pairs) if (index % HELD_OUT_EVERY == 0) == held_out]
    captions = tuple(f"a {colour} {shape}" for colour, shape in chosen)
    return RealPictures(captions, torch.stack([_drawn(*pair) for pair in chosen]))


def build_glyphs(folder: Path) -> DataManifest:
    folder.mkdir(parents=True)
    manifest = DataManifest(
        name="glyphs",
        source="made for a test",
        license="CC0-1.0",
        train=(write_shard(folder / "train-0.tar", _samples(glyphs(held_out=False)), (SIDE, SIDE)),),
        held_out=(write_shard(folder / "held-out-0.tar", _samples(glyphs(held_out=True)), (SIDE, SIDE)),),
    )
    manifest.save(folder)
    return manifest


def _drawn(colour: str, shape: str) -> Tensor:
    mask_44 = torch.tensor(
        [[bool(SHAPES[shape] >> (15 - 4 * row - column) & 1) for column in range(4)] for row in range(4)]
    )
    mask_SS = mask_44.repeat_interleave(SIDE // 4, 0).repeat_interleave(SIDE // 4, 1)
    ink_311 = torch.tensor(COLOURS[colour], dtype=torch.uint8)[:, None, None]
    return torch.where(mask_SS, ink_311, torch.tensor(255, dtype=torch.uint8))


def _samples(pictures: RealPictures) -> list[Sample]:
    samples = []
    for index, (caption, picture) in enumerate(zip(pictures.captions, pictures.thumbnails_NCTT, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
        samples.append(Sample(f"glyph-{index}", buffer.getvalue(), "png", caption, "made for a test", "CC0-1.0"))
    return samples
