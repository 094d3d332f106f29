"""The averaged weights that checkpoints publish: an exponential moving average, its memory counted in images.

Shapes: P parameters, flattened.
"""

from __future__ import annotations

from torch import Tensor


def ema_decay(images: int, half_life_images: int) -> float:
    """What is left of the average after `images` more images: 2^(-images / half_life).

    Decays multiply: rounds of any size, and so of any number of workers, forget at the same pace.
    """
    return float(0.5 ** (images / half_life_images))


def ema_update(average_P: Tensor, weights_P: Tensor, decay: float) -> None:
    """In place: average = decay * average + (1 - decay) * weights."""
    average_P.lerp_(weights_P, 1.0 - decay)
