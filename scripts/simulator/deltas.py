"""Deltas to hand in, encoded once: as large and as valid as a worker's, made of noise.

Those of fp32 and int8 end in numbers that may be anything, so each hand-in gets an end of its own: no two are the same
blob, as no two trained ones are. Of the other codecs there are as many as were prepared.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.vector import encode_chunks, write_vector

_SCALE: Final = 1e-3
"""Of the noise."""

_ENDS: Final = {Codec.FP32: struct.Struct("<f"), Codec.INT8: struct.Struct("<I")}
"""What may be written over the last bytes of a vector."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A vector as it is handed in: `start` is shared by many."""

    start: memoryview
    end: bytes
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Of both."""
        return len(self.start) + len(self.end)

    @property
    def data(self) -> bytes:
        """A copy of the whole."""
        return bytes(self.start) + self.end

    def pieces(self, offset: int, most: int) -> list[bytes]:
        """From `offset` on, at most `most` bytes each."""
        size = self.size_bytes
        return [self._piece(first, min(first + most, size)) for first in range(offset, size, most)]

    def _piece(self, first: int, last: int) -> bytes:
        piece = bytes(self.start[first:last])
        if last > len(self.start):
            piece += self.end[max(0, first - len(self.start)) : last - len(self.start)]
        return piece

    @classmethod
    def of(cls, data: bytes) -> Encoded:
        """Any bytes."""
        return cls(memoryview(data), b"", hashlib.sha256(data).hexdigest())


class Deltas:
    """The deltas of one fleet."""

    def __init__(self, codec: Codec, num_elements: int, *, count: int, seed: int) -> None:
        self._end = _ENDS.get(codec)
        self._numbers = itertools.count(1)
        self._prepared = [self._prepare(codec, num_elements, seed * count + index) for index in range(count)]

    def next(self) -> Encoded:
        """One that was not handed out before, where the codec allows that."""
        number = next(self._numbers)
        start, digest = self._prepared[number % len(self._prepared)]
        end = b"" if self._end is None else self._end.pack(number)
        whole = digest.copy()
        whole.update(end)
        return Encoded(start, end, whole.hexdigest())

    def _prepare(self, codec: Codec, num_elements: int, seed: int) -> tuple[memoryview, Any]:
        vector = _SCALE * torch.randn(num_elements, generator=torch.Generator().manual_seed(seed))
        data = contained(codec, num_elements, encode_chunks(codec, vector))
        start = memoryview(data)[: len(data) - (self._end.size if self._end else 0)]
        return start, hashlib.sha256(start)


def contained(codec: Codec, num_elements: int, chunks: Iterator[bytes]) -> bytes:
    """An encoded vector as it travels."""
    buffer = io.BytesIO()
    write_vector(buffer, codec, num_elements, chunks)
    return buffer.getvalue()
