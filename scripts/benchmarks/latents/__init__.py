"""Latents of pictures of 256 x 256 pixels: bytes a sample, and what int8 costs beside fp16 once decoded.

The pictures are made up (gradients, shapes and grain), each with 160 words of real English as its caption (Python's own manual).
The autoencoder has the shape of Stable Diffusion's, a factor of 8 and 4 channels, with fewer features; it is trained here on
windows of the same pictures, so that what it decodes has something to lose.
"""

from __future__ import annotations

import io
import pydoc_data.topics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.figures import Figure
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.encode import encode
from diffusion_at_home.data.latents import read_latents
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.shards import Sample, decode_images, read_shard, write_shard
from diffusion_at_home.model.autoencoder import (
    Autoencoder,
    decode_latents,
    encode_pictures,
    encoder_of,
    open_autoencoder,
)
from diffusion_at_home.model.autoencoder_training import AutoencoderTraining, train_autoencoder

SIDE = 256
WORDS = 160
BATCH = 8


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`; `overrides` are of the autoencoder's training."""
    images, num_pictures = (3000, 32) if quick else (40_000, 256)
    small = ("block_out_channels=[16, 32, 32, 32]", "groups=4", "window=32", "batch_images=8", f"images={images}")
    settings = load_toml(None, AutoencoderTraining, [*small, *overrides])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _build(root / "pictures", num_pictures)
        trained = train_autoencoder(root / "pictures", root / "autoencoder", settings)
        autoencoder = open_autoencoder(trained.folder, named_by="the benchmark")
        started = time.perf_counter()
        made = encode(root / "pictures", root / "latents", encoder_of(autoencoder))
        seconds = time.perf_counter() - started
        quality = _quality(root, made, autoencoder)
    entries = (*made.train, *made.held_out)
    samples = sum(entry.num_samples for entry in entries)
    losses = tuple(fp16 - int8 for fp16, int8 in zip(quality["psnr_fp16"], quality["psnr_int8"], strict=True))
    return {
        "bytes_per_sample_256": Figure(tuple(entry.size_bytes / entry.num_samples for entry in entries), "B"),
        **{name: Figure(tuple(values), "dB") for name, values in quality.items()},
        "psnr_lost_to_int8": Figure(losses, "dB"),
        "encode": Figure((samples / seconds,), "pictures/s"),
    }


def _quality(root: Path, made: DataManifest, autoencoder: Autoencoder) -> dict[str, list[float]]:
    """Of each held-out picture (dB): decoded from fp16, from what is stored, and the latter compared with the former."""
    pictures = DataManifest.load(root / "pictures")
    assert made.latents is not None
    found: dict[str, list[float]] = {"psnr_fp16": [], "psnr_int8": [], "psnr_int8_against_fp16": []}
    for source, entry in zip(pictures.held_out, made.held_out, strict=True):
        samples = read_shard(root / "pictures" / source.name, source)
        shard = read_latents(root / "latents" / entry.name, entry, made.latents.space)
        for start in range(0, len(samples), BATCH):
            part = range(start, min(start + BATCH, len(samples)))
            x_BCHW = decode_images([samples[position] for position in part], source.size, 3)
            exact_BCHW = encode_pictures(autoencoder, x_BCHW).means_NCHW
            fp16_BCHW = decode_latents(autoencoder, exact_BCHW.half().float()).clamp(-1, 1)
            int8_BCHW = decode_latents(autoencoder, shard.posterior(part).means_NCHW).clamp(-1, 1)
            found["psnr_fp16"] += _each(x_BCHW, fp16_BCHW)
            found["psnr_int8"] += _each(x_BCHW, int8_BCHW)
            found["psnr_int8_against_fp16"] += _each(fp16_BCHW, int8_BCHW)
    return found


def _each(x_BCHW: Tensor, y_BCHW: Tensor) -> list[float]:
    mse_B = (y_BCHW - x_BCHW).square().mean(dim=(1, 2, 3))
    return [float(value) for value in 10 * torch.log10(4 / mse_B)]


def _build(folder: Path, num_pictures: int) -> None:
    folder.mkdir()
    samples, held_out = _samples(num_pictures), max(8, num_pictures // 8)
    train, kept = samples[held_out:], samples[:held_out]
    DataManifest(
        name="made-up",
        source="made up",
        license="CC0-1.0",
        train=(write_shard(folder / "train-0.tar", train, (SIDE, SIDE)),),
        held_out=(write_shard(folder / "held-out-0.tar", kept, (SIDE, SIDE)),),
    ).save(folder)


def _samples(count: int) -> list[Sample]:
    random, captions = np.random.default_rng(0), _captions()
    return [
        Sample(
            key=f"picture-{index:06d}",
            image=_picture(random),
            suffix="png",
            caption=next(captions),
            source=f"https://example.org/pictures/{index:09d}",
            license="CC-BY-4.0",
            author=f"author {index % 50}",
        )
        for index in range(count)
    ]


def _captions() -> Iterator[str]:
    """Different passages of the manual of Python's language, again and again."""
    words = " ".join(pydoc_data.topics.topics.values()).split()
    while True:
        for start in range(0, len(words) - WORDS, WORDS):
            yield " ".join(words[start : start + WORDS])


def _picture(random: np.random.Generator) -> bytes:
    """A PNG."""
    corners = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    picture = Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(random.integers(3, 12)):
        x, y, width, height = (int(value) for value in random.integers(8, SIDE, 4))
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape(
            (x - width // 2, y - height // 2, x + width // 2, y + height // 2),
            fill=_colour(random),
            outline=_colour(random),
        )
    grain = random.normal(0, 4, (SIDE, SIDE, 1))
    levels = np.clip(np.asarray(picture, dtype=np.float64) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG")
    return buffer.getvalue()


def _colour(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(level) for level in random.integers(0, 256, 3))
