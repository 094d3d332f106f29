"""Between pictures as models have them, floats in [-1, 1], and as files have them, 8-bit levels."""

from __future__ import annotations

from torch import Tensor


def to_levels(pictures_NCHW: Tensor) -> Tensor:
    """uint8, clipped and rounded."""
    return ((pictures_NCHW.clamp(-1, 1) + 1) * 127.5).round().byte()


def to_unit(levels_NCHW: Tensor) -> Tensor:
    """float32 in [-1, 1]."""
    return levels_NCHW.float() / 127.5 - 1
