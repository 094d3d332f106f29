from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.wire import scales
from diffusion_at_home.wire.chunk import DecodeError

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def value(bits: int) -> float:
    (number,) = struct.unpack("<f", struct.pack("<I", bits << 16))
    return float(number)


WRITABLE = [0, *range(0x0080, 0x7F80)]


@given(number=FLOATS)
def test_rounded_scale_is_the_nearest_one_that_may_be_written(number: float) -> None:
    bits = int(scales.rounded(np.array([number], dtype=np.float32))[0])
    assert bits & 0x7FFF in WRITABLE
    assert bits != 0x8000
    if bits == 0:
        assert abs(number) < scales.SMALLEST
    else:
        magnitude = bits & 0x7FFF
        neighbours = [b for b in (magnitude - 1, magnitude + 1) if b in WRITABLE[1:]]
        error = abs(value(bits) - number)
        assert all(error <= abs(np.copysign(value(b), number) - number) for b in neighbours)


@given(bits=st.integers(0, 0xFFFF), signed=st.booleans())
def test_only_what_is_written_is_read(bits: int, signed: bool) -> None:
    data = memoryview(struct.pack("<H", bits))
    if (bits & 0x7FFF if signed else bits) in WRITABLE and bits != 0x8000:
        read = scales.read(data, signed=signed)
        assert float(read[0]) == value(bits)
        assert int(scales.rounded(read)[0]) == bits
    else:
        with pytest.raises(DecodeError, match="scale"):
            scales.read(data, signed=signed)


def test_ties_go_to_the_even_scale() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], dtype=np.float32)
    assert [value(int(bits)) for bits in scales.rounded(ties)] == [1.0, 1 + 2**-6]


def test_what_would_round_to_infinity_is_the_largest_scale() -> None:
    largest = np.array([3.4028234e38, -3.4028234e38], dtype=np.float32)
    assert scales.rounded(largest).tolist() == [0x7F7F, 0xFF7F]
    assert value(0x7F7F) == scales.LARGEST
