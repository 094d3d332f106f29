"""The container of an encoded vector: a delta, an update, a snapshot.

Format 1, all integers little-endian:

    offset  bytes  field
    0       4      "DAHV"
    4       1      format version, 1
    5       1      codec: 1 fp32, 2 int8, 3 int4, 4 sparse, 5 sparse_wide
    6       2      zero
    8       8      num_elements
    16      4      chunk_elements: elements of every chunk but the last
    20      4      num_chunks = ceil(num_elements / chunk_elements)
    24      4 each length in bytes of each chunk
    ...            the chunks, without gaps

A reader knows num_elements, the codec and chunk_elements beforehand and refuses anything else, so no length in the
file sizes anything before it is checked. Chunks decode independently: a vector of any size is read in bounded memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

import numpy as np
import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.parallel import in_order

CHUNK_ELEMENTS: Final = 1 << 18
"""1 MiB of fp32: large enough to be fast, small enough that a temporary of that size comes from the heap, without page faults."""

_MAGIC: Final = b"DAHV"
_FORMAT: Final = 1
_HEADER: Final = struct.Struct("<4sBBHQII")
_CODEC_IDS: Final = {Codec.FP32: 1, Codec.INT8: 2, Codec.INT4: 3, Codec.SPARSE: 4, Codec.SPARSE_WIDE: 5}


def num_chunks(num_elements: int) -> int:
    """Chunks of a vector of `num_elements`."""
    return -(-num_elements // CHUNK_ELEMENTS)


def size_bounds(codec: Codec, num_elements: int) -> tuple[int, int]:
    """Fewest and most bytes of an encoded vector of `num_elements`."""
    overhead = _HEADER.size + 4 * num_chunks(num_elements)
    whole, rest = divmod(num_elements, CHUNK_ELEMENTS)
    full, last = chunk_codec(codec).bounds(CHUNK_ELEMENTS), chunk_codec(codec).bounds(rest)
    return overhead + whole * full[0] + last[0], overhead + whole * full[1] + last[1]


def write_vector(out: BinaryIO, codec: Codec, num_elements: int, chunks: Iterator[bytes]) -> None:
    """Write already encoded `chunks` to the seekable `out` as a container."""
    lengths = np.zeros(num_chunks(num_elements), dtype="<u4")
    start = out.tell()
    header = _HEADER.pack(_MAGIC, _FORMAT, _CODEC_IDS[codec], 0, num_elements, CHUNK_ELEMENTS, len(lengths))
    out.write(header)
    out.write(lengths.tobytes())
    for index, chunk in enumerate(chunks):
        out.write(chunk)
        lengths[index] = len(chunk)
    out.seek(start + len(header))
    out.write(lengths.tobytes())
    out.seek(0, 2)


def encode_chunks(codec: Codec, vector: Tensor) -> Iterator[bytes]:
    """Encode fp32 `vector`, (n,), chunk by chunk."""
    encode, chunks = chunk_codec(codec).encode, torch.split(vector, CHUNK_ELEMENTS)
    yield from in_order(lambda index: encode(chunks[index]), len(chunks))


class VectorReader:
    """An encoded vector over a buffer (bytes or a memory map), checked when it is opened."""

    def __init__(self, data: memoryview, codec: Codec, num_elements: int) -> None:
        """Check the frame of `data`; raise `DecodeError` if it is not a `codec` vector of `num_elements`."""
        self.num_elements = num_elements
        self._codec = chunk_codec(codec)
        lowest, highest = size_bounds(codec, num_elements)
        if not lowest <= len(data) <= highest:
            raise DecodeError(f"{len(data)} bytes instead of {lowest} to {highest}")
        expected = (_MAGIC, _FORMAT, _CODEC_IDS[codec], 0, num_elements, CHUNK_ELEMENTS, num_chunks(num_elements))
        if _HEADER.unpack(data[: _HEADER.size]) != expected:
            raise DecodeError(f"the header is not that of a {codec.value} vector of {num_elements} elements")
        body = _HEADER.size + 4 * num_chunks(num_elements)
        lengths = np.frombuffer(data[_HEADER.size : body], dtype="<u4").astype(np.int64)
        if body + int(lengths.sum()) != len(data):
            raise DecodeError("the chunk lengths do not add up to the size")
        ends = body + np.cumsum(lengths)
        self._spans = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
        self._data = data

    def __len__(self) -> int:
        return len(self._spans)

    def chunk(self, index: int) -> Tensor:
        """Chunk `index` as fp32; raise `DecodeError` if its bytes are not one."""
        begin, end = self._spans[index]
        return self._codec.decode(self._data[begin:end], self.chunk_elements(index))

    def chunk_elements(self, index: int) -> int:
        """Elements of chunk `index`."""
        return min(CHUNK_ELEMENTS, self.num_elements - index * CHUNK_ELEMENTS)

    def add_chunk_to(self, index: int, target: Tensor, alpha: float) -> None:
        """Add `alpha` times chunk `index` to fp32 `target`, as `ChunkCodec.add_to` says."""
        begin, end = self._spans[index]
        self._codec.add_to(self._data[begin:end], target, alpha)

    def is_finite(self) -> bool:
        """Whether all numbers are finite; raise `DecodeError` if any chunk's bytes are not one."""
        return all(
            self._codec.is_finite(self._data[begin:end], self.chunk_elements(index))
            for index, (begin, end) in enumerate(self._spans)
        )

    def add_to(self, vector: Tensor) -> None:
        """Add this to fp32 `vector`, (num_elements,), in place, one binary32 addition an element like every replica.

        Raises `DecodeError` half-way.
        """
        for index, target in enumerate(torch.split(vector, CHUNK_ELEMENTS)):
            self.add_chunk_to(index, target, 1.0)

    def copy_to(self, vector: Tensor) -> None:
        """Write this over fp32 `vector`, (num_elements,); raises `DecodeError` half-way."""
        for index, target in enumerate(torch.split(vector, CHUNK_ELEMENTS)):
            target.copy_(self.chunk(index))
