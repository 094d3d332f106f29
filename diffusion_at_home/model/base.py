"""What a model family must offer: one small interface, one file a family.

A family owns its network and, where that is trained, its text encoder as one `nn.Module`, so that the trainable parameters of a
run are exactly `named_parameters()` (fp32 on the coordinator and on the wire), and nothing else has to be exchanged. What
is not trained stands beside it: an autoencoder, a frozen text encoder.

Shapes: B images, C channels, H height, W width, L text tokens, D text features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin

    from diffusion_at_home.config.run import Prediction, TextEncoderSection
    from diffusion_at_home.model.decoding import Decoder
    from diffusion_at_home.model.frozen import FrozenEncoder


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of captions as a text encoder takes them that is trained with the model."""

    ids_BL: Tensor
    """int64 token ids."""
    mask_BL: Tensor
    """bool, True where there is text."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A batch of captions as a frozen text encoder gives them."""

    values_BLD: Tensor
    """0 where there is no text."""
    mask_BL: Tensor
    """bool, True where there is text."""

    @classmethod
    def of(cls, rows: Sequence[Tensor]) -> Self:
        """Of one tensor (tokens, D) for each caption, padded to the longest."""
        lengths_B = torch.tensor([len(row) for row in rows])
        values_BLD = nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return cls(values_BLD, torch.arange(values_BLD.shape[1]) < lengths_B[:, None])

    @classmethod
    def made_up(cls, section: TextEncoderSection, num_captions: int) -> Self | None:
        """What takes as much memory as captions of the most tokens, in bf16; None for a run whose encoder is trained."""
        if not section.frozen:
            return None
        shape = (num_captions, section.max_tokens)
        return cls(torch.zeros(*shape, section.hidden_size, dtype=torch.bfloat16), torch.ones(shape, dtype=torch.bool))

    def at(self, rows: Sequence[int] | slice) -> Embeddings:
        """Those of some captions."""
        picked = rows if isinstance(rows, slice) else list(rows)
        return Embeddings(self.values_BLD[picked], self.mask_BL[picked])


Text = Tokens | Embeddings


class DiffusionModel(nn.Module, ABC):
    """A denoiser with its text encoder."""

    prediction: Prediction
    """What `forward` returns; set by the family."""
    decoder: Decoder | None = None
    """Makes pictures of what is denoised; None where that is pictures."""
    frozen: FrozenEncoder | None = None
    """Makes embeddings of captions; None where the text encoder is trained and part of the model."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> Text:
        """Captions to what `forward` takes, on the CPU, as the exported pipeline makes it; the empty one is unconditional.

        That is tokens, or embeddings where the encoder is frozen: the first time loads it, and raises `ConfigError` if it cannot.
        """

    @abstractmethod
    def forward(self, x_BCHW: Tensor, t_B: Tensor, text: Text) -> Tensor:
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
