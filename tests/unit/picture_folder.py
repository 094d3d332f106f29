"""Folders of small pictures, no two alike, each with its caption."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = ("base=32", "step=8", "max_side=64", "format='png'", "shard_samples=20", "license='CC0-1.0'")
"""Settings that make a data set of them in no time."""

SHAPES = ((48, 48), (64, 40), (40, 64))
"""One for each of three buckets: 32x32, 40x24 and 24x40."""


def write_pictures(root: Path, count: int, start: int = 0) -> None:
    """Write `count` pictures and captions to `root`; number n is the same in every folder."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        (root / f"p{number:05d}.jpg").write_bytes(picture(number))
        (root / f"p{number:05d}.txt").write_text(f"picture number {number}")


def picture(number: int, quality: int = 90) -> bytes:
    """Noise in large blocks, as a JPEG."""
    width, height = SHAPES[number % len(SHAPES)]
    blocks = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a data set."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
