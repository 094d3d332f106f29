"""What a model family must offer: one small interface, one file a family.

A family owns its network, its text encoder and its tokenizer as one `nn.Module`, so that the trainable parameters of a
run are exactly `named_parameters()` (fp32 on the coordinator and on the wire), and nothing else has to be exchanged.

Shapes: B images, C channels, H height, W width, L text tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

    from diffusion_at_home.config.run import Prediction
    from diffusion_at_home.model.decoding import Decoder


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of captions as the text encoder takes them."""

    ids_BL: Tensor
    """int64 token ids."""
    mask_BL: Tensor
    """bool, True where there is text."""


class DiffusionModel(nn.Module, ABC):
    """A denoiser with its text encoder."""

    prediction: Prediction
    """What `forward` returns; set by the family."""
    decoder: Decoder | None = None
    """Makes pictures of what is denoised; None where that is pictures."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Captions to tokens on the CPU, as the exported pipeline makes them; the empty one is unconditional."""

    @abstractmethod
    def forward(self, x_BCHW: Tensor, t_B: Tensor, tokens: Tokens) -> Tensor:
        """The network's raw output, (B, C, H, W), for noisy input `x_BCHW` at times `t_B` in [0, 1]."""

    @abstractmethod
    def scheduler(self) -> SchedulerMixin:
        """A new scheduler, as the exported pipeline has it."""

    @abstractmethod
    def pipeline(self) -> DiffusionPipeline:
        """The stock diffusers pipeline that is exported, sharing this model's weights."""

    @abstractmethod
    def adopt(self, pipeline: DiffusionPipeline) -> None:
        """Take over the networks of a loaded `pipeline` of this model's shape."""

    @abstractmethod
    def pipeline_call(self) -> dict[str, Any]:
        """Keyword arguments that the stock pipeline's call needs besides the prompt (sizes, binning)."""

    @abstractmethod
    def recompute_activations(self) -> None:
        """From now on compute activations again in the backward pass instead of keeping them."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """The modules that are computed one after another and hold nearly all weights, in that order."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of what the network computes with outside of autocast."""
        return next(self.parameters()).dtype

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
