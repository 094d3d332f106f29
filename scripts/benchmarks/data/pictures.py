"""Pictures for the benchmark: no two alike, of several shapes, in WebDataset tars; and what the libraries alone take for them.

Both run in a process for each core.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from diffusion_at_home.data.buckets import nearest_bucket
from diffusion_at_home.data.build_settings import BuildSettings
from diffusion_at_home.data.picture import PictureRules

SHAPES: Final = ((512, 384), (384, 512), (512, 512), (576, 384), (640, 360))
"""Pixels."""
_TAR_PICTURES: Final = 500
_BLOCKS: Final = (24, 24, 3)
_GRAIN: Final = 6.0
"""Standard deviation of noise over the blocks (levels): without it a picture would cost an encoder nothing."""


def make_tars(folder: Path, count: int) -> list[Path]:
    """Write `count` pictures with captions to tars in `folder`."""
    folder.mkdir(parents=True)
    ranges = [(folder / f"{start:08d}.tar", start, min(start + _TAR_PICTURES, count)) for start in range(0, count, 500)]
    with _pool() as pool:
        return list(pool.map(_make_tar, *zip(*ranges, strict=True)))


def bare_pictures_per_second(tars: list[Path], settings: BuildSettings) -> float:
    """Decode, resize to cover, crop, encode, with the calls and parameters that a build uses, and nothing else."""
    rules, start = settings.picture_rules(), time.monotonic()
    with _pool() as pool:
        count = sum(pool.map(_convert_tar, tars, [rules] * len(tars)))
    return count / (time.monotonic() - start)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn"))


def _make_tar(path: Path, start: int, stop: int) -> Path:
    with tarfile.open(path, "w") as tar:
        for number in range(start, stop):
            for suffix, data in (("jpg", _picture(number)), ("txt", b"pattern number %d" % number)):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def _picture(number: int) -> bytes:
    draw = np.random.default_rng(number)
    width, height = SHAPES[number % len(SHAPES)]
    blocks = Image.fromarray(draw.integers(0, 256, _BLOCKS, dtype=np.uint8))
    smooth = np.asarray(blocks.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = draw.standard_normal((height, width, 1), dtype=np.float32) * _GRAIN
    buffer = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _convert_tar(path: Path, rules: PictureRules) -> int:
    count = 0
    for data in _jpegs(path):
        picture = Image.open(io.BytesIO(data))
        bucket = nearest_bucket(picture.size, rules.buckets, max_stretch=rules.max_stretch)
        assert bucket is not None
        picture.draft(None, (2 * bucket[0], 2 * bucket[1]))
        scale = max(bucket[0] / picture.width, bucket[1] / picture.height)
        left = (picture.width - bucket[0] / scale) / 2
        top = (picture.height - bucket[1] / scale) / 2
        box = (left, top, picture.width - left, picture.height - top)
        small = picture.resize(bucket, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)
        small.save(io.BytesIO(), "WEBP", quality=rules.quality, method=2)
        count += 1
    return count


def _jpegs(path: Path) -> Iterator[bytes]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                file = tar.extractfile(member)
                assert file is not None
                yield file.read()
