"""A checkpoint, verified and loaded by stock diffusers, that draws for captions and answers for its held-out loss.

Many captions are drawn at once by `model.sampling.draw`, with the pipeline's own networks and arithmetic.

Shapes: N pictures, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from diffusion_at_home.checkpoint.manifest import CheckpointManifest, Weights
from diffusion_at_home.checkpoint.stock import load_pipeline
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import first_mistake
from diffusion_at_home.data.manifest import ShardEntry
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.errors import ConfigError, IntegrityError
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.evaluation import HeldOutLoss, Pictures, held_out_loss
from diffusion_at_home.model.sampling import draw
from diffusion_at_home.model.times import EVALUATED_TIMES

_TOGETHER: Final = 20
"""Captions whose noise is drawn from one seed; another number would be other questions."""
_LOSS_SEED: Final = 0
"""As the coordinator has it, so that the same weights have the same loss."""


class Artist:
    """One set of weights of a checkpoint."""

    weights: Weights
    """Which ones."""
    steps: int
    """Denoising steps that the run recommends."""
    guidance: float
    """Guidance that the run recommends."""

    def __init__(
        self,
        weights: Weights,
        model: DiffusionModel,
        config: RunConfig,
    ) -> None:
        self.weights = weights
        self._model = model
        self._config = config
        self.steps = config.checkpoint.sampling_steps
        self.guidance = config.checkpoint.guidance_scale

    @classmethod
    def load(cls, folder: Path, manifest: CheckpointManifest, weights: Weights) -> Self:
        """The weights of that name in `folder`, which the caller has verified. Raises `IntegrityError`, `ConfigError`."""
        try:
            config = RunConfig.model_validate(manifest.config)
        except ValidationError as error:
            raise IntegrityError(
                f"the config of the checkpoint {folder} is none ({first_mistake(error)}): upgrade, or download it again"
            ) from None
        if weights not in manifest.variants:
            raise ConfigError(
                f"the checkpoint {folder} holds {manifest.default_weights} weights alone: leave --variant out"
            )
        pipeline = load_pipeline(folder, None if weights == manifest.default_weights else weights)
        tokenizer = (folder / "tokenizer" / "tokenizer.json").read_bytes()
        model = build_model(config.model, config.objective, tokenizer, config.run.seed)
        model.adopt(pipeline)
        return cls(weights, model.eval(), config)

    def draw(
        self, captions: Sequence[str], *, steps: int, guidance: float, seed: int, tell: Callable[[int], None]
    ) -> Tensor:
        """One picture a caption: RGB (N, 3, H, W), clipped to [-1, 1]; the n-th caption always has the same noise.

        `tell` hears how many are drawn.
        """
        side = self._config.model.image_size
        parts = [torch.empty(0, 3, side, side)]
        for start in range(0, len(captions), _TOGETHER):
            part = captions[start : start + _TOGETHER]
            drawn_NCHW = draw(
                self._model,
                # Every batch is as long as the others, so that no picture depends on how many are asked for.
                [*part, *[""] * (_TOGETHER - len(part))],
                steps=steps,
                guidance_scale=guidance,
                seed=seed + start,
                size=self._config.model.sample_shape,
            )
            parts.append(drawn_NCHW[: len(part)].expand(-1, 3, -1, -1))
            tell(start + len(part))
        return torch.cat(parts).clamp(-1, 1)

    def held_out_loss(self, folder: Path, entries: Sequence[ShardEntry]) -> HeldOutLoss | None:
        """The loss on the first pictures of `entries` whose size suits the model, as the coordinator takes it.

        None where there are none, and in latents, which a data set of pictures does not hold. Raises `DataError`.
        """
        model, left = self._config.model, self._config.evaluation.max_images
        if model.in_latents:
            return None
        pictures = list[Pictures]()
        for entry in entries:
            if left <= 0 or entry.width % model.size_unit or entry.height % model.size_unit:
                continue
            samples = read_shard(folder / entry.name, entry)[:left]
            left -= len(samples)
            images_NCHW = decode_images(samples, entry.size, model.channels)
            pictures.append(Pictures(images_NCHW, [sample.caption for sample in samples]))
        if not pictures:
            return None
        draws = self._config.evaluation.draws
        return held_out_loss(
            self._model, pictures, self._config.objective, draws=draws, seed=_LOSS_SEED, bins=EVALUATED_TIMES
        )
