"""What a delta looks like from afar: its length, and few enough numbers of it that any two can be compared.

The numbers are a count sketch (Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams"): every element
goes with a random sign into one of 32,768 sums, so the inner product of two sketches is that of the deltas, give or take
||a|| ||b|| / 181. Where an element goes is a hash with a key of the run's that nobody else knows: who knew it could make two
deltas look alike, or unlike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader

SKETCH_SIZE: Final = 1 << 15
COSINE_ERROR: Final = SKETCH_SIZE**-0.5
"""Standard deviation of the cosine between two sketches from that of their deltas."""


# The finalizer of splitmix64 (Steele, Lea and Flood 2014), which has no structure that weights could share; as signed integers.
_MULTIPLIERS: Final = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_SHIFTS: Final = (30, 27, 31)


@dataclass(frozen=True, slots=True)
class Sketch:
    """Of one delta."""

    norm: float
    """Euclidean length; nan where a number is not finite."""
    sums: Tensor
    """fp32 (SKETCH_SIZE,)."""


class Sketcher:
    """Makes the sketches of one run, which alone can be compared with each other."""

    def __init__(self, key: int) -> None:
        """`key` is under 2^63."""
        self._key = key

    def sketch(self, delta: VectorReader) -> Sketch:
        """Of `delta`, chunk by chunk, in memory that does not grow with it. Raises `DecodeError`."""
        sums, squares = torch.zeros(SKETCH_SIZE, dtype=torch.float64), 0.0
        for index in range(len(delta)):
            chunk_n = delta.chunk(index)
            (places_k,) = chunk_n.nonzero(as_tuple=True)
            values_k = chunk_n[places_k].to(torch.float64)
            squares += float(values_k.dot(values_k))
            hash_k = _mixed(places_k + (index * CHUNK_ELEMENTS) + self._key)
            signs_k = 1 - 2 * (hash_k & 1)
            sums.index_add_(0, (hash_k >> 1) & (SKETCH_SIZE - 1), values_k * signs_k)
        return Sketch(squares**0.5, sums.to(torch.float32))


def _mixed(x: Tensor) -> Tensor:
    """A hash of each of int64 `x`."""
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        x = (x ^ _shifted(x, shift)) * multiplier
    return x ^ _shifted(x, _SHIFTS[-1])


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros from the left: torch's own shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
