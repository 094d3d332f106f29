"""Views of a picture that show the same thing: moved, scaled, recoloured a little, noisy, blurred, partly covered.

Pure functions of pictures and a generator on the CPU. `full` views teach an encoder what does not matter; `light` ones stand
for a perfect drawing of a picture: what nobody who draws it again could be blamed for.

Shapes: B pictures, C channels, H height, W width; pictures are float32 in [-1, 1], 1 being white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Strength:
    """Bounds of what is drawn uniformly for each picture."""

    shift: float
    """Of the side, each way."""
    scale: float
    """Of the size, each way."""
    turn: float
    """Radians, each way."""
    gain: float
    """Of each channel's contrast to white, each way."""
    noise: float
    """Largest standard deviation, of a range of 2."""
    blurred: float
    """Share of pictures that are blurred (3 x 3, binomial)."""
    erased: float
    """Share of pictures with a rectangle of up to 0.35 of each side covered."""


FULL: Final = Strength(shift=0.12, scale=0.2, turn=0.2, gain=0.2, noise=0.2, blurred=0.4, erased=0.5)
LIGHT: Final = Strength(shift=0.04, scale=0.05, turn=0.05, gain=0.08, noise=0.08, blurred=0.4, erased=0.0)


def augment(x_BCHW: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    """A view of each picture, of the same shape. Always consumes the same numbers of `generator` for one shape."""
    x_BCHW = _moved(x_BCHW, generator, strength)
    x_BCHW = _blurred(x_BCHW, generator, strength.blurred)
    B, C = x_BCHW.shape[:2]
    gain_BC11 = 1 + strength.gain * _uniform((B, C, 1, 1), generator)
    x_BCHW = 1 - (1 - x_BCHW) * gain_BC11
    x_BCHW = _erased(x_BCHW, generator, strength.erased)
    noise_B111 = strength.noise * torch.rand((B, 1, 1, 1), generator=generator)
    return (x_BCHW + noise_B111 * torch.randn(x_BCHW.shape, generator=generator)).clamp(-1, 1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator) - 1


def _moved(x_BCHW: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    B = len(x_BCHW)
    scale_B = 1 + strength.scale * _uniform((B,), generator)
    turn_B = strength.turn * _uniform((B,), generator)
    shift_B2 = 2 * strength.shift * _uniform((B, 2), generator)  # the sides run from -1 to 1
    cos_B, sin_B = scale_B * turn_B.cos(), scale_B * turn_B.sin()
    rows = (torch.stack((cos_B, -sin_B, shift_B2[:, 0]), 1), torch.stack((sin_B, cos_B, shift_B2[:, 1]), 1))
    grid_BHW2 = F.affine_grid(torch.stack(rows, 1), list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False)


def _blurred(x_BCHW: Tensor, generator: torch.Generator, share: float) -> Tensor:
    chosen_B111 = torch.rand((len(x_BCHW), 1, 1, 1), generator=generator) < share
    C = x_BCHW.shape[1]
    line_3 = torch.tensor([0.25, 0.5, 0.25])
    kernel_C133 = torch.outer(line_3, line_3).expand(C, 1, 3, 3)
    blurred_BCHW = F.conv2d(F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate"), kernel_C133, groups=C)
    return torch.where(chosen_B111, blurred_BCHW, x_BCHW)


def _erased(x_BCHW: Tensor, generator: torch.Generator, share: float) -> Tensor:
    B, C, H, W = x_BCHW.shape
    chosen_B111 = torch.rand((B, 1, 1, 1), generator=generator) < share
    middle_B2, half_B2 = torch.rand((B, 2), generator=generator), 0.175 * torch.rand((B, 2), generator=generator)
    rows_BH = (torch.arange(H) / H - middle_B2[:, :1]).abs() < half_B2[:, :1]
    columns_BW = (torch.arange(W) / W - middle_B2[:, 1:]).abs() < half_B2[:, 1:]
    covered_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None] & chosen_B111
    colour_BC11 = _uniform((B, C, 1, 1), generator)
    return torch.where(covered_B1HW, colour_BC11, x_BCHW)
