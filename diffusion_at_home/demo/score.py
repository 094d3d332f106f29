"""What the demo says of its result: pictures drawn by the stock pipeline from the downloaded checkpoint, and a judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DiffusionPipeline

from diffusion_at_home.checkpoint.manifest import load_manifest
from diffusion_at_home.data.digits import DIGIT_WORDS, digits_arrays
from diffusion_at_home.model.digits_judge import DigitsJudge, DigitsScore


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
    """Draw `pictures_per_digit` of each digit with stock diffusers and judge them."""
    drawn_NHW, labels_N = _draw(checkpoint, pictures_per_digit)
    judge = DigitsJudge.train(*digits_arrays(), seed=0)
    return DigitsResult(judge.judge(drawn_NHW, labels_N), judge.floor(), judge.ceiling(), len(labels_N))


def _draw(checkpoint: Path, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    call = load_manifest(checkpoint).call
    pipeline = DiffusionPipeline.from_pretrained(checkpoint, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    drawn: list[npt.NDArray[np.float64]] = []
    for digit, word in enumerate(DIGIT_WORDS):
        pictures = pipeline(
            f"a handwritten {word}",
            num_images_per_prompt=count,
            generator=torch.Generator().manual_seed(digit),
            output_type="np",
            **call,
        ).images
        drawn.append(np.asarray(pictures, dtype=np.float64).mean(axis=-1))  # grey: the channels are alike
    return np.concatenate(drawn), np.repeat(np.arange(len(DIGIT_WORDS)), count)
