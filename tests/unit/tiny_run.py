"""A run so small that a training step takes milliseconds: 4 x 4 pixels, some ten thousand parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from diffusion_at_home.clock import SystemClock
from diffusion_at_home.config.run import CodecSection, RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.text import train_tokenizer
from diffusion_at_home.wire.layout import Layout
from worker.pacer import Pacer
from worker.residual import Residual
from worker.trainer import Batch

CAPTIONS = ("a dark square", "a bright square")

TINY = (
    "run.name='tiny'",
    "run.total_images=1000",
    "data.path='nowhere'",
    "model.image_size=4",
    "model.prx.hidden_size=16",
    "model.prx.depth=1",
    "model.prx.heads=2",
    "model.text.vocab_size=300",
    "model.text.hidden_size=16",
    "model.text.max_tokens=6",
    "inner.batch_images=8",
    "inner.optimizer='adamw'",
    "round.images=64",
    "ema.half_life_images=100",
    "evaluation.every_images=100",
    "checkpoint.every_images=100",
    "judging.every_images=0",
    "screening.enabled=false",  # tests hand in what suits them
    "aggregation.clip=0.0",
    "gate.enabled=false",
)
"""Settings, as after `--set`."""


def tiny_config(*overrides: str) -> RunConfig:
    return load_toml(None, RunConfig, [*TINY, *overrides])


def tiny_tokenizer(config: RunConfig) -> bytes:
    return train_tokenizer(CAPTIONS, config.model.text)


def tiny_model(config: RunConfig, seed: int = 0) -> DiffusionModel:
    return build_model(config.model, config.objective, tiny_tokenizer(config), seed)


def spread_weights(model: nn.Module) -> None:
    """Move every weight, so that no layer is still the zero it starts as and hides what stands before it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def batches(count: int, images: int = 8, shape: Sequence[int] = (3, 4, 4)) -> list[Batch]:
    """Squares whose brightness the caption tells, a little noisy."""
    generator = torch.Generator().manual_seed(0)
    brightness = torch.tensor([-0.8 if index % 2 == 0 else 0.8 for index in range(images)])
    return [
        Batch(
            brightness[:, None, None, None] + 0.1 * torch.randn(images, *shape, generator=generator),
            captions(images),
        )
        for _ in range(count)
    ]


def no_residual() -> Residual:
    """Of a run without error feedback."""
    return Residual(Path("nowhere"), CodecSection(), Layout(()))


def no_limit() -> Pacer:
    """Of a line that may be used as it is."""
    return Pacer(math.inf, SystemClock(), time.sleep)


def captions(images: int) -> list[str]:
    return [CAPTIONS[index % 2] for index in range(images)]


def same_bits(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


REPOSITORY = Path(__file__).resolve().parents[2]
