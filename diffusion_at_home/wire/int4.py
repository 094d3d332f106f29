"""int4: four bits an element, blockwise.

Blocks of 64 elements, the last one shorter. First ceil(n / 64) scales (`wire/scales.py`: bfloat16, little-endian, with a
sign): the block's element of the largest magnitude, the positive one of two, rounded to the nearest scale. Then n codes
of 4 bits in ceil(n / 2) bytes, the even element in a byte's lower half; a half that is left over is clear. An element is
LEVELS[code] / 128 * scale, which is exact in binary32 (code 0 of a negative scale is -0.0).

An encoder picks the level nearest to element / scale, the upper one of two. Hence the element that gave the scale has
code 8, and a block whose scale is zero (all its magnitudes round to less than 2^-126) has codes 0 alone; a decoder refuses
anything else. The error of an element is at most 0.153 of its block's largest magnitude, plus 2^-126.

ceil(n / 2) + 2 ceil(n / 64) bytes: 0.531 an element. The scale has a sign because that puts the largest magnitude at +1
always and leaves a level more for the rest. The levels are Lloyd-Max for blocks from trainings of the digits, Gaussian,
Laplace and Student's t (3 degrees of freedom), each counting alike, rounded to 1/128.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_at_home.wire import scales
from diffusion_at_home.wire.chunk import ChunkCodec, DecodeError, expect_length

BLOCK: Final = 64
LEVELS: Final = (0, 8, 18, 29, 43, 58, 76, 98, 128, -109, -83, -63, -46, -32, -19, -8)
"""What a code stands for, in 1/128 of the scale."""

_RANGE: Final = 258  # a rounded scale may be a little smaller than its element: |element / scale| * 256 stays under it


def _codes_of_ratios() -> npt.NDArray[np.uint8]:
    """The code for each floor(256 element / scale) from -_RANGE to _RANGE: levels' midpoints are multiples of 1/256."""
    ascending = sorted(LEVELS)
    midpoints = [low + high for low, high in itertools.pairwise(ascending)]
    nearest = np.searchsorted(midpoints, np.arange(-_RANGE, _RANGE + 1), side="right")
    return np.array([LEVELS.index(level) for level in ascending], dtype=np.uint8)[nearest]


_CODES: Final = _codes_of_ratios()
_PAIRS: Final = np.array([[LEVELS[b & 15] / 128, LEVELS[b >> 4] / 128] for b in range(256)], dtype=np.float32)
_AS_ONE: Final = _PAIRS.view(np.uint64)[:, 0]  # both values of a byte, looked up at once


class Int4(ChunkCodec):
    """Blockwise 4 bit."""

    def bounds(self, num_elements: int) -> tuple[int, int]:
        """See `ChunkCodec.bounds`."""
        size = -(-num_elements // 2) + scales.NUM_BYTES * _num_blocks(num_elements)
        return size, size

    def encode(self, chunk: Tensor) -> bytes:
        """See `ChunkCodec.encode`."""
        num_elements = len(chunk)
        x = np.zeros((_num_blocks(num_elements), BLOCK), dtype=np.float32)
        x.reshape(-1)[:num_elements] = chunk.contiguous().numpy()
        highest, lowest = x.max(axis=1), x.min(axis=1)
        if not (np.isfinite(highest) & np.isfinite(lowest)).all():
            raise ValueError("a number is infinite or not a number, which int4 cannot hold")
        bits = scales.rounded(np.where(highest >= -lowest, highest, lowest))
        scale = (bits.astype(np.uint32) << 16).view(np.float32)
        x /= np.where(scale == 0, np.float32(np.inf), scale)[:, None]
        x *= 256
        codes = _CODES[np.floor(x, out=x).astype(np.int16) + _RANGE].reshape(-1, 2)
        packed = codes[:, 0] | codes[:, 1] << 4
        return bits.astype("<u2").tobytes() + packed[: -(-num_elements // 2)].tobytes()

    def decode(self, data: memoryview, num_elements: int) -> Tensor:
        """See `ChunkCodec.decode`."""
        scale, packed = self._read(data, num_elements)
        values = _AS_ONE[packed.astype(np.intp)].view(np.float32)
        values *= scale[:, None]
        return torch.from_numpy(values.reshape(-1)[:num_elements])

    def is_finite(self, data: memoryview, num_elements: int) -> bool:
        """See `ChunkCodec.is_finite`."""
        self._read(data, num_elements)
        return True

    def _read(self, data: memoryview, num_elements: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """The scale of each block, (b,), and its codes in pairs, (b, BLOCK / 2), all checked."""
        expect_length(data, self.bounds(num_elements)[0])
        num_blocks = _num_blocks(num_elements)
        scale = scales.read(data[: scales.NUM_BYTES * num_blocks], signed=True)
        packed = np.zeros((num_blocks, BLOCK // 2), dtype=np.uint8)
        packed.reshape(-1)[: -(-num_elements // 2)] = np.frombuffer(data[scales.NUM_BYTES * num_blocks :], np.uint8)
        if num_elements % 2 and data[-1] >> 4:
            raise DecodeError("a code follows the last element")
        if not np.array_equal(_have_top(packed), scale != 0) or packed[scale == 0].any():
            raise DecodeError("a block's codes do not go with its scale")
        return scale, packed


def _num_blocks(num_elements: int) -> int:
    return -(-num_elements // BLOCK)


def _have_top(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether code 8 is among those of each block, (b, BLOCK / 2), sixteen at a time.

    Where a code is 8, `others` has four clear bits, and only a word with such bits borrows across them.
    """
    others = packed.view(np.uint64) ^ np.uint64(0x8888888888888888)
    tops = (others - np.uint64(0x1111111111111111)) & ~others & np.uint64(0x8888888888888888)
    have_top: npt.NDArray[np.bool_] = (tops != 0).any(axis=1)
    return have_top
