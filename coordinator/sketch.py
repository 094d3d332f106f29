"""What a delta looks like from afar: its length, and few enough numbers of it that any two can be compared.

The numbers are a count sketch (Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams"): every element
goes with a random sign into one of 32,768 sums, so the inner product of two sketches is that of the deltas, give or take
||a|| ||b|| / 181. Where an element goes is drawn by a key of the run's that nobody else knows: who knew it could make two
deltas look alike, or unlike. It is drawn once for all chunks of a vector, which a shift of signs and of sums, drawn for each
chunk, makes as good as drawn for each: a chunk then costs a few passes over it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader

SKETCH_SIZE: Final = 1 << 15
COSINE_ERROR: Final = SKETCH_SIZE**-0.5
"""Standard deviation of the cosine between two sketches from that of their deltas."""


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
        generator = torch.Generator().manual_seed(key)
        self._order = torch.randperm(CHUNK_ELEMENTS, generator=generator)
        """Every SKETCH_SIZE-th of these places goes into the same sum."""
        signs = torch.randint(0, 2, (CHUNK_ELEMENTS,), generator=generator, dtype=torch.int8) * 2 - 1
        self._signs = signs.float().repeat(2)
        """Twice the same, so that shifted ones are a part of it."""

    def sketch(self, delta: VectorReader) -> Sketch:
        """Of `delta`, chunk by chunk, in memory that does not grow with it. Raises `DecodeError`."""
        sums, squares = torch.zeros(SKETCH_SIZE), 0.0
        for index in range(len(delta)):
            chunk_n = delta.chunk(index)
            squares += float(torch.linalg.vector_norm(chunk_n, dtype=torch.float64)) ** 2
            sums += self._sums(chunk_n, index)
        return Sketch(squares**0.5, sums)

    def _sums(self, chunk_n: Tensor, index: int) -> Tensor:
        chance = random.Random(f"{self._key} {index}")  # noqa: S311 -- the key is the secret
        whole = chunk_n
        if len(chunk_n) < CHUNK_ELEMENTS:  # the last one
            whole = torch.zeros(CHUNK_ELEMENTS)
            whole[: len(chunk_n)] = chunk_n
        first = chance.randrange(CHUNK_ELEMENTS)
        signed = whole.index_select(0, self._order) * self._signs[first : first + CHUNK_ELEMENTS]
        return signed.view(-1, SKETCH_SIZE).sum(dim=0).roll(chance.randrange(SKETCH_SIZE))
