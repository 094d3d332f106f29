"""Draws with several experts, each trained on its own part of one data set, and a router that says whose turn it is.

This file lies in the folder of a checkpoint, beside its weights, and stock diffusers runs it if it is told to:

    pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    pipe("a cat", top_k=1).images[0]

It opens no file, no connection and no process. Its bytes depend on the version of diffusion-at-home that wrote it, not on the
model, and `dah checkpoint verify FOLDER` refuses any others.

What each step follows is sum over k of p(k | x_t, t, caption) x (what expert k predicts), the flow of the whole data set, where
the router is p and only its `top_k` largest are kept and scaled to a sum of 1 (McAllister et al. 2025, Decentralized Diffusion
Models, arXiv:2501.05450). With guidance this holds for each of both captions, the given one and the empty one.

Shapes: B rows (pictures, twice as many with guidance), K experts, C channels, H height, W width, L tokens, D text features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PRXPixelPipeline,
    PRXTransformer2DModel,
)
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

MOST_EXPERTS = 8


class CohortPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers ships no types
    """A stock `PRXPixelPipeline` whose transformer is a `Mixture` of up to eight.

    Every component is a class of diffusers or transformers, loaded by their own code. Each expert has its own text encoder, and
    so has the router.
    """

    _optional_components: ClassVar[list[str]] = [
        f"{part}_{k}" for k in range(1, MOST_EXPERTS + 1) for part in ("transformer", "text_encoder")
    ]

    def __init__(  # noqa: PLR0913, PLR0917 -- diffusers finds the components of a folder by these names
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        tokenizer: PreTrainedTokenizerBase,
        router: PRXTransformer2DModel,
        router_text_encoder: PreTrainedModel,
        transformer_1: PRXTransformer2DModel | None = None,
        text_encoder_1: PreTrainedModel | None = None,
        transformer_2: PRXTransformer2DModel | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        transformer_3: PRXTransformer2DModel | None = None,
        text_encoder_3: PreTrainedModel | None = None,
        transformer_4: PRXTransformer2DModel | None = None,
        text_encoder_4: PreTrainedModel | None = None,
        transformer_5: PRXTransformer2DModel | None = None,
        text_encoder_5: PreTrainedModel | None = None,
        transformer_6: PRXTransformer2DModel | None = None,
        text_encoder_6: PreTrainedModel | None = None,
        transformer_7: PRXTransformer2DModel | None = None,
        text_encoder_7: PreTrainedModel | None = None,
        transformer_8: PRXTransformer2DModel | None = None,
        text_encoder_8: PreTrainedModel | None = None,
        default_sample_size: int = 256,
        prompt_max_tokens: int = 256,
        top_k: int = 1,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        settings = {name: given.pop(name) for name in ("default_sample_size", "prompt_max_tokens", "top_k")}
        self.register_modules(**given)
        self.register_to_config(**settings)

    def stock(self, top_k: int | None = None) -> PRXPixelPipeline:
        """The stock pipeline that draws, with the `top_k` experts of each step that the router finds likeliest."""
        numbers = [k for k in range(1, MOST_EXPERTS + 1) if getattr(self, f"transformer_{k}") is not None]
        experts = [getattr(self, f"transformer_{k}") for k in numbers]
        encoders = [*(getattr(self, f"text_encoder_{k}") for k in numbers), self.router_text_encoder]
        kept = self.config.top_k if top_k is None else top_k
        if not 1 <= kept <= len(experts):
            raise ValueError(f"top_k = {kept} must be between 1 and the number of experts, {len(experts)}")
        pipeline = PRXPixelPipeline(
            transformer=Mixture(experts, self.router, kept),
            text_encoder=Encoders(encoders),
            scheduler=self.scheduler,
            tokenizer=self.tokenizer,
            default_sample_size=self.config.default_sample_size,
            prompt_max_tokens=self.config.prompt_max_tokens,
            noise_scale=1.0,  # as in training
        )
        pipeline.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return pipeline

    @torch.no_grad()
    def __call__(self, *args: Any, top_k: int | None = None, **call: Any) -> Any:
        """Draw as `PRXPixelPipeline` does, whose arguments these are."""
        return self.stock(top_k)(*args, **call)


class Encoders(nn.Module):
    """Text encoders that read the same tokens; their features lie one behind the other."""

    def __init__(self, encoders: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes with."""
        return next(self.parameters()).dtype

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        """`last_hidden_state` (B, L, the sum of all D)."""
        found = [encoder(input_ids=input_ids, attention_mask=attention_mask) for encoder in self.encoders]
        return BaseModelOutput(last_hidden_state=torch.cat([one["last_hidden_state"] for one in found], dim=-1))


class Mixture(nn.Module):
    """Experts in the place of one transformer: each row goes through those that the router chooses for it, and no others.

    Takes the features of `Encoders`: those of the experts' own, then the router's.
    """

    def __init__(self, experts: Sequence[PRXTransformer2DModel], router: PRXTransformer2DModel, top_k: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.router = router
        self.top_k = top_k
        self.config = experts[0].config  # the stock pipeline asks for in_channels and patch_size
        self._widths = [one.config.context_in_dim for one in (*experts, router)]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes with."""
        return next(self.parameters()).dtype

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        return_dict: bool = False,  # noqa: ARG002 -- the stock pipeline's word
    ) -> tuple[Tensor]:
        """The mean of what the chosen experts predict (B, C, H, W), weighed by the router."""
        B = len(hidden_states)
        t_B = timestep.repeat_interleave(B // len(timestep))
        *texts, router_text_BLD = torch.split(encoder_hidden_states, self._widths, dim=-1)

        def predict(model: nn.Module, text_BLD: Tensor, rows: Tensor) -> Tensor:
            found: tuple[Tensor] = model(
                hidden_states=hidden_states[rows],
                timestep=t_B[rows],
                encoder_hidden_states=text_BLD[rows],
                attention_mask=attention_mask[rows],
                return_dict=False,
            )
            return found[0]

        all_rows = torch.arange(B, device=hidden_states.device)
        logits_BK = read_logits(predict(self.router, router_text_BLD, all_rows), len(self.experts))
        weights_BK = shares(logits_BK.float(), self.top_k)

        def one(k: int, rows: Tensor) -> Tensor:
            return predict(self.experts[k], texts[k], rows)

        return (mix(one, weights_BK),)


def read_logits(output_BCHW: Tensor, num_experts: int) -> Tensor:
    """The router's word (B, K): its output pictures cut into squares, averaged, of which the first K numbers are the logits.

    So a router is a transformer of the experts' own class, and no other class has to be trusted. The squares are the smallest
    that hold K numbers.
    """
    side = next(side for side in (1, 2, 4) if output_BCHW.shape[1] * side**2 >= num_experts)
    cells = nn.functional.pixel_unshuffle(output_BCHW, side)
    return cells.mean(dim=(2, 3))[:, :num_experts]


def shares(logits_BK: Tensor, top_k: int) -> Tensor:
    """How much each expert counts for each row (B, K): softmax over the `top_k` largest, exactly 0 for the others."""
    kept = logits_BK.topk(top_k, dim=1)
    return torch.zeros_like(logits_BK).scatter(1, kept.indices, kept.values.softmax(dim=1))


def mix(predict: Callable[[int, Tensor], Tensor], weights_BK: Tensor) -> Tensor:
    """The sum over k of weight x `predict(k, rows)`, which is asked for the rows alone in which expert k counts."""
    mixed: Tensor | None = None
    for k in range(weights_BK.shape[1]):
        rows = weights_BK[:, k].nonzero().flatten()
        if not len(rows):
            continue
        part = predict(k, rows)
        if mixed is None:
            mixed = part.new_zeros(len(weights_BK), *part.shape[1:])
        mixed[rows] += weights_BK[rows, k].to(part.dtype).reshape(-1, *[1] * (part.dim() - 1)) * part
    assert mixed is not None  # each row has top_k of them
    return mixed
