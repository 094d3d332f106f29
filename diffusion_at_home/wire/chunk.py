"""What a codec is: a pair of pure functions between a chunk of fp32 numbers and bytes, and how it refuses."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class DecodeError(ValueError):
    """The bytes are not what an encoder of this codec writes."""


class ChunkCodec(Protocol):
    """One way to write a chunk."""

    def bounds(self, num_elements: int) -> tuple[int, int]:
        """Fewest and most bytes a chunk of `num_elements` can take."""

    def encode(self, chunk: Tensor) -> bytes:
        """Write `chunk`, fp32 (n,); raise `ValueError` if the codec has no bytes for one of its numbers."""

    def decode(self, data: memoryview, num_elements: int) -> Tensor:
        """Read a chunk back as fp32 (n,); raise `DecodeError` if it is not one."""

    def is_finite(self, data: memoryview, num_elements: int) -> bool:
        """Whether all numbers of a chunk are finite; raise `DecodeError` if it is not one, as `decode` does."""

    def add_to(self, data: memoryview, target: Tensor, alpha: float) -> None:
        """Add `alpha` times the chunk to fp32 `target`, (n,), in place; raise `DecodeError` and add nothing if it is not one.

        Each product is rounded to binary32, then each sum: never fused, so that every machine gets the same bits. A codec
        that leaves out zeros gets them too, unless `target` holds -0.0, which it leaves while adding +0.0 makes it +0.0.
        """
        values = self.decode(data, len(target))
        if alpha == -1:
            target.sub_(values)
        else:
            target.add_(values if alpha == 1 else values.mul_(alpha))


def expect_length(data: memoryview, expected_bytes: int) -> None:
    """Raise `DecodeError` unless `data` has `expected_bytes`."""
    if len(data) != expected_bytes:
        raise DecodeError(f"a chunk has {len(data)} bytes instead of {expected_bytes}")
