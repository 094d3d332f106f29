from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire import int4
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.codecs import chunk_codec
from tests.conftest import Goldens

INT4 = chunk_codec(Codec.INT4)
LARGEST_ERROR = 0.153  # of a block's largest magnitude, as the format says

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = st.one_of(
    st.lists(FLOATS, min_size=1, max_size=150),
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, 0.996, 3.4028234e38, -3.4028234e38]), min_size=1, max_size=150
    ),
    st.builds(
        lambda n, scale: noise(n, scale).tolist(), st.integers(1, 300), st.sampled_from([1e-38, 1e-4, 1.0, 1e30])
    ),
)


def noise(num_elements: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num_elements, generator=torch.Generator().manual_seed(num_elements))


def naive_decode(data: bytes, num_elements: int, levels: list[int]) -> list[float]:
    """The documented rule, number by number."""
    num_blocks = (num_elements + 63) // 64
    values = []
    for index in range(num_elements):
        at = 2 * (index // 64)
        (scale,) = struct.unpack("<f", b"\0\0" + data[at : at + 2])
        byte = data[2 * num_blocks + index // 2]
        code = byte >> 4 if index % 2 else byte & 15
        values.append(levels[code] / 128 * scale)
    return values


def test_levels_are_the_published_ones(goldens: Goldens) -> None:
    goldens.check("int4_levels.json", json.dumps(int4.LEVELS) + "\n")
    assert len(set(int4.LEVELS)) == 16
    assert sorted(int4.LEVELS) == [*int4.LEVELS[9:], *int4.LEVELS[:9]]


@given(numbers=VECTORS)
def test_int4_decodes_by_the_documented_rule_alone(numbers: list[float]) -> None:
    data = INT4.encode(torch.tensor(numbers))
    assert len(data) == -(-len(numbers) // 2) + 2 * -(-len(numbers) // 64)
    naive = naive_decode(data, len(numbers), list(int4.LEVELS))
    assert INT4.decode(memoryview(data), len(numbers)).numpy().tobytes() == np.array(naive, np.float32).tobytes()


@given(numbers=VECTORS)
def test_int4_error_stays_within_its_bound(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    error = (INT4.decode(memoryview(INT4.encode(x)), len(x)).double() - x.double()).abs()
    absmax = torch.tensor([float(block.abs().max()) for block in torch.split(x, 64)], dtype=torch.float64)
    assert bool((error <= LARGEST_ERROR * absmax.repeat_interleave(64)[: len(x)] + 2.0**-126).all())


def test_bound_on_the_error_is_nearly_reached() -> None:
    x = torch.tensor([1.0, -1.0])
    error = float((INT4.decode(memoryview(INT4.encode(x)), 2) - x).abs().max())
    assert 0.97 * LARGEST_ERROR < error <= LARGEST_ERROR


@given(numbers=VECTORS)
def test_what_int4_decodes_is_encoded_to_the_same_bytes(numbers: list[float]) -> None:
    data = INT4.encode(torch.tensor(numbers))
    assert INT4.encode(INT4.decode(memoryview(data), len(numbers))) == data


@given(numbers=VECTORS, data=st.data())
def test_flipped_bits_are_refused_or_are_an_encoding_of_finite_numbers(
    numbers: list[float], data: st.DataObject
) -> None:
    wrong = bytearray(INT4.encode(torch.tensor(numbers)))
    for _ in range(data.draw(st.integers(1, 3))):
        wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = INT4.decode(memoryview(wrong), len(numbers))
    except DecodeError:
        return
    assert bool(torch.isfinite(decoded).all())
    assert INT4.encode(decoded) == wrong


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 70])
def test_int4_refuses_to_write_what_it_cannot_hold(value: float, position: int) -> None:
    x = noise(71)
    x[position] = value
    with pytest.raises(ValueError, match="int4 cannot hold"):
        INT4.encode(x)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("803f" "18" "10", "follows the last"),
        ("803f" "11" "01", "do not go with its scale"),  # no element at the scale
        ("0000" "18" "00", "do not go with its scale"),
        ("0000" "01" "00", "do not go with its scale"),
        ("0080" "00" "00", "scale"),
        ("807f" "18" "00", "scale"),
        ("7f00" "18" "00", "scale"),
        ("803f" "18", "bytes instead of"),
    ],
)  # fmt: skip
def test_int4_chunk_that_no_encoder_writes_is_refused(wrong: str, why: str) -> None:
    assert INT4.decode(memoryview(bytes.fromhex("803f1800")), 3).tolist() == [1.0, 8 / 128, 0.0]
    with pytest.raises(DecodeError, match=why):
        INT4.decode(memoryview(bytes.fromhex(wrong)), 3)
