"""The trials of the self-test: small models with fixed weights and fixed samples.

Between them they pass through matrix products, attention, convolutions, norms and the 8-bit optimizer. Nothing in them comes
from torch's random numbers, which differ between versions and devices, nor from functions whose last bits do: weights and
samples are a hash of their position, scaled.

Whatever changes here changes `known_answer.json`: `pytest tests/unit/test_selftest.py --rewrite-goldens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from diffusion_at_home.config.run import InnerKind, RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.text import train_tokenizer
from diffusion_at_home.wire.layout import Layout, Slot
from worker.step.stepper import Drawn

LEARNING_RATE: Final = 3e-3
"""So large that rounding weights to bf16, even at random, is little beside a step."""

_CAPTIONS: Final = ("a red cat", "dog", "", "blue")
_UNIT: Final = 3**0.5
"""Of numbers spread evenly over (-1, 1), scaled by this, the variance is 1."""

_SMALL: Final = (
    "run.name='self-test'",
    "run.total_images=64",
    "data.path='none'",
    "model.text.vocab_size=259",  # the 256 bytes and the special tokens: there is nothing to learn from captions
    "model.text.max_tokens=8",
    f"inner.batch_images={len(_CAPTIONS)}",
    "round.images=64",
    "ema.half_life_images=64",
    "evaluation.every_images=64",
    "checkpoint.every_images=64",
)
_PRX: Final = ("model.image_size=8", "model.prx.hidden_size=64", "model.prx.depth=2")
_UNET: Final = (
    "model.kind='unet'",
    "model.image_size=64",
    "model.latents.autoencoder='not needed'",
    "model.unet.channels=[32, 64]",
    "model.unet.layers=1",
    "model.unet.heads=4",
    "model.unet.groups=8",
    "objective.prediction='velocity'",
)
_GRADIENT: Final = ("inner.optimizer='gradient'", "outer.optimizer='adamw'")
_ADAMW8BIT: Final = ("inner.optimizer='adamw8bit'",)


@dataclass(frozen=True, slots=True)
class Trial:
    """A lease of a small model."""

    name: str
    config: RunConfig
    steps: int

    @property
    def gradient(self) -> bool:
        """Whether its delta is a gradient; else it is what weights lost by training."""
        return self.config.inner.optimizer is InnerKind.GRADIENT

    def build(self) -> DiffusionModel:
        """The model; its weights are to be replaced by `base`."""
        config = self.config
        return build_model(config.model, config.objective, train_tokenizer((), config.model.text), 0)

    def base(self, layout: Layout) -> Tensor:
        """The weights to start from, fp32 (n,): every tensor such that what passes through it keeps its size."""
        flat = torch.empty(layout.num_elements)
        for salt, (slot, view) in enumerate(zip(layout.slots, layout.views(flat), strict=True)):
            view.copy_(_weights(slot, salt))
        return flat

    def batch(self, step: int) -> Drawn:
        """The samples of `step`, which counts from 0, and their noise and times."""
        shape = (len(_CAPTIONS), *self.config.model.sample_shape)
        num_elements = len(_CAPTIONS) * int(np.prod(shape[1:]))
        x_BCHW, eps_BCHW = (spread(num_elements, 2**16 + 2 * step + which).view(shape) for which in (0, 1))
        t_B = (torch.arange(len(_CAPTIONS)) + 0.5) / len(_CAPTIONS)
        weight_B = torch.full_like(t_B, 1 / len(_CAPTIONS))
        return Drawn(x_BCHW, list(_CAPTIONS), t_B, _UNIT * eps_BCHW, weight_B)


def trials(*, with_8bit: bool = True) -> tuple[Trial, ...]:
    """All of them. Gradients show faults sharply, since no optimizer evens them out; the last one shows the 8-bit optimizer."""
    gradients = (
        Trial("prx", _config(*_PRX, *_GRADIENT), steps=1),
        Trial("unet", _config(*_UNET, *_GRADIENT), steps=1),
    )
    return (*gradients, Trial("prx with adamw8bit", _config(*_PRX, *_ADAMW8BIT), steps=3)) if with_8bit else gradients


def spread(num_elements: int, salt: int) -> Tensor:
    """Numbers spread evenly over [-1, 1), fp32 (num_elements,), the same on every machine: a hash of place and salt.

    Wellons 2018 (https://nullprogram.com/blog/2018/07/31), lowbias32.
    """
    bits = np.arange(num_elements, dtype=np.uint32) + np.uint32(salt * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    return torch.from_numpy((bits / 2.0**31 - 1).astype(np.float32))


def _weights(slot: Slot, salt: int) -> Tensor:
    numbers = spread(slot.num_elements, salt).view(slot.shape)
    if len(slot.shape) > 1:
        scaled: Tensor = numbers / (slot.num_elements / slot.shape[0]) ** 0.5
        return scaled
    return 0.1 * numbers + (0.0 if slot.name.endswith("bias") else 1.0)  # the others scale what a norm gives


def _config(*overrides: str) -> RunConfig:
    return load_toml(None, RunConfig, (*_SMALL, *overrides))
