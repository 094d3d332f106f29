"""Codecs: pairs of pure functions between a chunk of fp32 numbers and bytes.

A chunk of n elements becomes:

fp32    n IEEE-754 binary32, little-endian. Exact. 4 n bytes.

int8    blocks of 256 elements, the last one shorter. First ceil(n / 256) binary32 little-endian: each block's largest
        magnitude `absmax`. Then n bytes `q`: the element is codebook[q] * absmax, multiplied in binary32. The codebook
        is the signed dynamic map of 8-bit optimizers (Dettmers et al. 2022, arXiv:2110.02861, section 1.3): 256
        ascending values in [-1, 1], written out in tests/goldens/int8_codebook.json. An encoder picks the entry nearest
        to element / absmax rounded to binary16, and refuses numbers that are not finite, which it could not write; a
        decoder needs only the rule above. The error of an element is at most 0.0073 of its block's absmax.
        n + 4 ceil(n / 256) bytes: 1.016 an element.

int4, sparse and sparse_wide are told in `wire/int4.py` and `wire/sparse.py`.

Decoding refuses what no encoder writes (wrong length, a scale that is negative, infinite or not a number), by
`DecodeError`, before anything is allocated.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire import int8
from diffusion_at_home.wire.chunk import ChunkCodec, DecodeError, expect_length
from diffusion_at_home.wire.int4 import Int4
from diffusion_at_home.wire.sparse import Sparse


class Fp32(ChunkCodec):
    """As it is."""

    def bounds(self, num_elements: int) -> tuple[int, int]:
        """See `ChunkCodec.bounds`."""
        return 4 * num_elements, 4 * num_elements

    def encode(self, chunk: Tensor) -> bytes:
        """See `ChunkCodec.encode`."""
        return chunk.contiguous().numpy().tobytes()

    def decode(self, data: memoryview, num_elements: int) -> Tensor:
        """See `ChunkCodec.decode`."""
        expect_length(data, 4 * num_elements)
        return torch.frombuffer(bytearray(data), dtype=torch.float32)

    def is_finite(self, data: memoryview, num_elements: int) -> bool:
        """See `ChunkCodec.is_finite`."""
        return num_elements == 0 or _all_finite(self.decode(data, num_elements))


class Int8(ChunkCodec):
    """Blockwise 8 bit."""

    def bounds(self, num_elements: int) -> tuple[int, int]:
        """See `ChunkCodec.bounds`."""
        size = num_elements + 4 * _num_blocks(num_elements)
        return size, size

    def encode(self, chunk: Tensor) -> bytes:
        """See `ChunkCodec.encode`."""
        codes, absmax = int8.quantize(chunk.contiguous())
        if not _all_finite(absmax):
            raise ValueError("a number is infinite or not a number, which int8 cannot hold")
        return absmax.numpy().tobytes() + codes.numpy().tobytes()

    def decode(self, data: memoryview, num_elements: int) -> Tensor:
        """See `ChunkCodec.decode`."""
        absmax = _read_absmax(data, num_elements)
        codes = torch.frombuffer(bytearray(data[4 * len(absmax) :]), dtype=torch.uint8)
        return int8.dequantize(codes, absmax)

    def is_finite(self, data: memoryview, num_elements: int) -> bool:
        """See `ChunkCodec.is_finite`."""
        _read_absmax(data, num_elements)
        return True


def chunk_codec(codec: Codec) -> ChunkCodec:
    """The implementation of `codec`."""
    return _CODECS[codec]


def _read_absmax(data: memoryview, num_elements: int) -> Tensor:
    """The scales of an int8 chunk, all of which is checked with that."""
    num_blocks = _num_blocks(num_elements)
    expect_length(data, num_elements + 4 * num_blocks)
    absmax = torch.frombuffer(bytearray(data[: 4 * num_blocks]), dtype=torch.float32)
    if not bool(((absmax >= 0) & (absmax < torch.inf)).all()):
        raise DecodeError("a block's scale is negative or not finite")
    return absmax


def _all_finite(values: Tensor) -> bool:
    """Whether all of (n,), n > 0, are finite, without a mask as large."""
    return all(bool(torch.isfinite(edge)) for edge in torch.aminmax(values))


def _num_blocks(num_elements: int) -> int:
    return -(-num_elements // int8.BLOCK)


_CODECS: Final[dict[Codec, ChunkCodec]] = {
    Codec.FP32: Fp32(),
    Codec.INT8: Int8(),
    Codec.INT4: Int4(),
    Codec.SPARSE: Sparse(kept_per_block=67),
    Codec.SPARSE_WIDE: Sparse(kept_per_block=512),
}
