"""What the demo says of its result: pictures drawn with the downloaded checkpoint, before a judge.

The stock pipeline takes one prompt a call when guidance is on, so most pictures are drawn in batches by `sample` with the
pipeline's own networks; one of each digit is drawn by the pipeline too, and must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from diffusion_at_home.checkpoint.manifest import CheckpointManifest, load_manifest
from diffusion_at_home.checkpoint.stock import load_pipeline
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.digits import DIGIT_WORDS, caption, digits_arrays
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.evaluation.digits_judge import DigitsJudge, DigitsScore
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.sampling import sample

_SEED = 0
_TOLERANCE = 1e-3
"""Between a picture of a batch and the same one alone, in pixels of [-1, 1]: an eighth of a grey level."""


@dataclass(frozen=True, slots=True)
class DigitsResult:
    """A checkpoint's score between the best and the worst there is."""

    score: DigitsScore
    floor: DigitsScore
    """Real digits the judge has not seen."""
    ceiling: DigitsScore
    """Noise."""
    pictures: int


def score_digits(checkpoint: Path, pictures_per_digit: int = 50) -> DigitsResult:
    """Draw `pictures_per_digit` of each digit and judge them. Raises `IntegrityError` if stock diffusers draws others."""
    manifest = load_manifest(checkpoint)
    pipeline = load_pipeline(checkpoint)
    labels_N = np.tile(np.arange(len(DIGIT_WORDS)), pictures_per_digit)
    captions = [caption(digit) for digit in labels_N.tolist()]
    noise_NCHW, drawn_NCHW = _draw(checkpoint, manifest, pipeline, captions)
    for index in range(len(DIGIT_WORDS)):
        alone = pipeline(captions[index], latents=noise_NCHW[[index]], output_type="pt", **manifest.call).images
        if not torch.allclose(alone[0], drawn_NCHW[index], atol=_TOLERANCE):
            raise IntegrityError(f"stock diffusers draws another {captions[index]} from {checkpoint}: do not use it")
    judge = DigitsJudge.train(*digits_arrays(), seed=0)
    gray_NHW = (drawn_NCHW.mean(dim=1).double().numpy() + 1) / 2
    return DigitsResult(judge.judge(gray_NHW, labels_N), judge.floor(), judge.ceiling(), len(labels_N))


def _draw(
    checkpoint: Path, manifest: CheckpointManifest, pipeline: DiffusionPipeline, captions: list[str]
) -> tuple[Tensor, Tensor]:
    """The noise and the pictures, (N, C, H, W)."""
    config = RunConfig.model_validate(manifest.config)
    tokenizer = (checkpoint / "tokenizer" / "tokenizer.json").read_bytes()
    model = build_model(config.model, config.objective, tokenizer, config.run.seed)
    model.adopt(pipeline)
    model.eval()
    size = (config.model.channels, config.model.image_size, config.model.image_size)
    noise = torch.randn(len(captions), *size, generator=torch.Generator().manual_seed(_SEED))
    section = config.checkpoint
    drawn = sample(
        model, captions, steps=section.sampling_steps, guidance_scale=section.guidance_scale, seed=_SEED, size=size
    )
    return noise, drawn
