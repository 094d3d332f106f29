"""sparse, sparse_wide: the largest magnitudes of each block at one level, everything else zero.

Blocks of B = 4,096 elements, the last one shorter. A whole block keeps at most K elements, K = 67 for sparse and K = 512 for
sparse_wide; one of m < B elements at most max(1, K m // B). A chunk of n elements with b = ceil(n / B) blocks is

    bytes           field
    2 b             each block's scale s (`wire/scales.py`: bfloat16, little-endian, never negative)
    4               c, the number of elements kept in all blocks together, little-endian
    ceil(c / 8)     plane of signs (`wire/bits.py`): set for -s, clear for s; bit i belongs to the i-th element kept
    the rest        the positions of the kept elements in the chunk, ascending, as `wire/rice.py` writes them

A block keeps nothing if and only if its scale is zero. With that a content has one encoding, and a decoder refuses every other.

An encoder sorts the magnitudes of a block, of equal ones those that come first, and keeps the m <= K largest for which S^2 / m is
most, S being their sum; the scale is S / m, which makes the squared error the energy of the block less S^2 / m. It refuses
numbers that are not finite. A block of which less than 2^-126 would be the scale is written as zero. Rounding the scale
adds at most 2^-16 of S^2 / m (unless it would pass 2^127).

A bit more for each kept element, to tell two levels apart, costs as much as an eighth of the positions, and on deltas of real
trainings, nearly Gaussian, more positions keep more of the energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion_at_home.wire import rice, scales
from diffusion_at_home.wire.bits import plane_bytes, read_planes, write_plane
from diffusion_at_home.wire.chunk import ChunkCodec, DecodeError

BLOCK: Final = 4096

_COUNT_BYTES: Final = 4
_DENSE_SHARE: Final = 0.67
_INFINITY_BITS: Final = 0x7F800000


@dataclass(frozen=True, slots=True)
class _Entries:
    """What a chunk keeps. All are (c,)."""

    positions: npt.NDArray[np.int64]
    """Ascending."""
    values: npt.NDArray[np.float32]


class Sparse(ChunkCodec):
    """At most `kept_per_block` elements of each block."""

    def __init__(self, kept_per_block: int) -> None:
        self._kept_per_block = kept_per_block

    def bounds(self, num_elements: int) -> tuple[int, int]:
        """See `ChunkCodec.bounds`."""
        if num_elements == 0:
            return 0, 0
        lowest = scales.NUM_BYTES * _num_blocks(num_elements) + _COUNT_BYTES
        return lowest, lowest + _most_bytes(num_elements, int(self._limits(num_elements).sum()))

    def encode(self, chunk: Tensor) -> bytes:
        """See `ChunkCodec.encode`."""
        limits = self._limits(len(chunk))
        bits_BE = np.zeros((len(limits), BLOCK), dtype=np.int32)
        bits_BE.reshape(-1)[: len(chunk)] = chunk.contiguous().numpy().view(np.int32)
        magnitudes_BE = bits_BE & 0x7FFFFFFF  # as integers they are ordered as the numbers are
        largest_BK = _largest(magnitudes_BE, int(limits[0]))
        if largest_BK[:, 0].max() >= _INFINITY_BITS:
            raise ValueError("a number is infinite or not a number, which a sparse codec cannot hold")
        best, scale = _fit(largest_BK.view(np.float32), limits)
        scale_bits = scales.rounded(np.minimum(scale, scales.LARGEST).astype(np.float32))
        kept = np.where(scale_bits > 0, best, 0)
        positions = _positions(magnitudes_BE, largest_BK, kept)
        return b"".join(
            (
                scale_bits.astype("<u2").tobytes(),
                len(positions).to_bytes(_COUNT_BYTES, "little"),
                write_plane(bits_BE.reshape(-1)[positions] < 0),
                rice.write_positions(positions, len(chunk)),
            )
        )

    def decode(self, data: memoryview, num_elements: int) -> Tensor:
        """See `ChunkCodec.decode`."""
        entries = self._entries(data, num_elements)
        values = np.zeros(num_elements, dtype=np.float32)
        values[entries.positions] = entries.values
        return torch.from_numpy(values)

    def is_finite(self, data: memoryview, num_elements: int) -> bool:
        """See `ChunkCodec.is_finite`."""
        self._entries(data, num_elements)
        return True

    def add_to(self, data: memoryview, target: Tensor, alpha: float) -> None:
        """See `ChunkCodec.add_to`; touches only what was kept."""
        entries = self._entries(data, len(target))
        values = entries.values * np.float32(alpha)
        target.scatter_add_(0, torch.from_numpy(entries.positions), torch.from_numpy(values))

    def _entries(self, data: memoryview, num_elements: int) -> _Entries:
        limits = self._limits(num_elements)
        body = scales.NUM_BYTES * len(limits) + _COUNT_BYTES
        if len(data) < body:
            raise DecodeError(f"a chunk has {len(data)} bytes instead of {body} or more")
        scale = scales.read(data[: body - _COUNT_BYTES], signed=False)
        count = int.from_bytes(data[body - _COUNT_BYTES : body], "little")
        size = plane_bytes(count)
        if count > limits.sum() or len(data) < body + size:
            raise DecodeError(f"a chunk of {len(data)} bytes cannot keep {count} of {num_elements} elements")
        positions = rice.read_positions(data[body + size :], count, num_elements)
        (signs,) = read_planes(data[body:], 1, count)
        starts = np.searchsorted(positions, np.arange(0, num_elements + BLOCK, BLOCK))
        kept = np.diff(starts)
        if (kept > limits).any() or not np.array_equal(kept > 0, scale > 0):
            raise DecodeError("a block keeps more than it may, or its scale does not go with what it keeps")
        values = np.repeat(scale, kept)
        values.view(np.uint32)[:] |= signs.astype(np.uint32) << 31
        return _Entries(positions, values)

    def _limits(self, num_elements: int) -> npt.NDArray[np.int64]:
        """The most that each block may keep."""
        lengths = np.full(_num_blocks(num_elements), BLOCK)
        lengths[-1] -= -num_elements % BLOCK
        limits: npt.NDArray[np.int64] = np.maximum(1, self._kept_per_block * lengths // BLOCK)
        return limits


@cache
def _most_bytes(num_elements: int, most_kept: int) -> int:
    """The most bytes behind the count: not always those of the highest one, since few positions are far apart."""
    return max(plane_bytes(count) + rice.most_bytes(count, num_elements) for count in range(most_kept + 1))


def _num_blocks(num_elements: int) -> int:
    return -(-num_elements // BLOCK)


def _largest(magnitudes_BE: npt.NDArray[np.int32], num_kept: int) -> npt.NDArray[np.int32]:
    """The `num_kept` largest of each row, descending."""
    split = BLOCK - num_kept
    if (
        np.count_nonzero(magnitudes_BE) < _DENSE_SHARE * magnitudes_BE.size
    ):  # equal numbers slow partitioning down tenfold
        largest = np.sort(magnitudes_BE, axis=1)[:, split:]
    else:
        largest = np.sort(np.partition(magnitudes_BE, split, axis=1)[:, split:], axis=1)
    return np.ascontiguousarray(largest[:, ::-1])


def _fit(
    magnitudes_BK: npt.NDArray[np.float32], limits: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """How many of each row of descending magnitudes to keep, at most `limits`, and their mean; (b,) each.

    Sums run in a fixed order in binary64, so every machine gets the same bits.
    """
    sums_BK = np.cumsum(magnitudes_BK, axis=1, dtype=np.float64)
    numbers_K = np.arange(1, sums_BK.shape[1] + 1)
    gain_BK = np.where(numbers_K <= limits[:, None], sums_BK**2 / numbers_K, -1.0)
    kept = gain_BK.argmax(axis=1) + 1
    mean: npt.NDArray[np.float64] = np.take_along_axis(sums_BK, kept[:, None] - 1, axis=1)[:, 0] / kept
    return kept, mean


def _positions(
    magnitudes_BE: npt.NDArray[np.int32], largest_BK: npt.NDArray[np.int32], kept: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where the `kept`, (b,), largest of each row are in the flat array, ascending; of equal ones the first."""
    smallest = np.take_along_axis(largest_BK, np.maximum(kept - 1, 0)[:, None], axis=1)
    smallest = np.where(kept[:, None] > 0, smallest, _INFINITY_BITS)
    positions = np.flatnonzero(magnitudes_BE >= smallest)
    if len(positions) == kept.sum():
        return positions
    # more elements are as large as the smallest one kept
    block = positions // BLOCK
    is_tied = magnitudes_BE.reshape(-1)[positions] == smallest[block, 0]
    ties = np.cumsum(is_tied)
    before = np.searchsorted(block, np.arange(len(kept)))
    order = ties - np.concatenate(([0], ties))[before][block]  # 1 for the first tied one of a block
    room = kept - (largest_BK > smallest).sum(axis=1)
    first: npt.NDArray[np.int64] = positions[~is_tied | (order <= room[block])]
    return first
