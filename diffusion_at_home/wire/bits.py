"""Planes of bits: bit i is bit i % 8, from the lowest, of byte i // 8; what is left of the last byte is clear."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diffusion_at_home.wire.chunk import DecodeError


def plane_bytes(num_bits: int) -> int:
    """Bytes of a plane."""
    return -(-num_bits // 8)


def write_plane(bits: npt.NDArray[np.bool_]) -> bytes:
    """Write `bits`, (n,)."""
    return np.packbits(bits, bitorder="little").tobytes()


def read_planes(data: memoryview, num_planes: int, num_bits: int) -> npt.NDArray[np.uint8]:
    """The planes at the start of `data` as zeros and ones, (num_planes, num_bits).

    Raises:
        DecodeError: if a bit behind the last one of a plane is set.
    """
    size = plane_bytes(num_bits)
    planes = np.frombuffer(data[: num_planes * size], dtype=np.uint8).reshape(num_planes, size)
    if num_bits % 8 and (planes[:, -1] >> num_bits % 8).any():
        raise DecodeError("a bit is set behind the last one")
    return np.unpackbits(planes, axis=1, count=num_bits, bitorder="little")
