"""The inner learning rate over the run, in images."""

from __future__ import annotations

import math

from diffusion_at_home.config.run import RunConfig


def learning_rate(config: RunConfig, images: int) -> float:
    """The rate after `images` images: linear warm-up, constant, half cosine down to schedule.final_share."""
    schedule, peak = config.schedule, config.inner.learning_rate
    if images < schedule.warmup_images:
        return peak * max(images, 1) / schedule.warmup_images
    left = max(config.run.total_images - images, 0)
    if left >= schedule.decay_images:
        return peak
    share = 0.5 * (1 - math.cos(math.pi * left / schedule.decay_images))
    return peak * (schedule.final_share + (1 - schedule.final_share) * share)
