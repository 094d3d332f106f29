"""Scales of blocks as bfloat16: the upper 16 bits of a binary32, two bytes little-endian.

A scale is zero (all bits clear) or a normal number: no NaN, no infinity, no -0.0, no denormal. Eight significant bits
times a constant of at most sixteen are exact in binary32, so what codecs make of a scale needs no rule for rounding.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from diffusion_at_home.wire.chunk import DecodeError

SMALLEST: Final = 2.0**-126
"""The smallest scale that is not zero."""
LARGEST: Final = (2 - 2**-7) * 2.0**127
NUM_BYTES: Final = 2

_SMALLEST_BITS: Final = 0x0080
_LARGEST_BITS: Final = 0x7F7F


def rounded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The scales nearest to finite `values`, ties to even, as bits; zero for magnitudes that round to under `SMALLEST`."""
    bits = values.view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    magnitude = np.minimum(nearest & 0x7FFF, _LARGEST_BITS)
    return np.where(magnitude < _SMALLEST_BITS, 0, nearest & 0x8000 | magnitude).astype(np.uint16)


def read(data: memoryview, *, signed: bool) -> npt.NDArray[np.float32]:
    """The scales in `data`, fp32; raise `DecodeError` for what `rounded` does not make, or a sign where there is none."""
    bits = np.frombuffer(data, dtype="<u2")
    magnitude = bits & 0x7FFF if signed else bits
    fine = (magnitude >= _SMALLEST_BITS) & (magnitude <= _LARGEST_BITS) | (bits == 0)
    if not fine.all():
        raise DecodeError("a block's scale is one that no encoder writes")
    return (bits.astype(np.uint32) << 16).view(np.float32)
