from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffusion_at_home.wire import rice
from diffusion_at_home.wire.chunk import DecodeError


@st.composite
def position_lists(draw: st.DrawFn) -> tuple[list[int], int]:
    num_positions = draw(st.integers(1, 3000))
    return sorted(draw(st.sets(st.integers(0, num_positions - 1), max_size=120))), num_positions


def write(positions: list[int], num_positions: int) -> bytes:
    return rice.write_positions(np.array(positions, dtype=np.int64), num_positions)


def naive_parameter(count: int, num_positions: int) -> int:
    k = 0
    while 100 * count * 2**k < 48 * num_positions:
        k += 1
    return k


def naive_bits(positions: list[int], num_positions: int) -> list[list[int]]:
    """The planes, bit by bit."""
    k = naive_parameter(len(positions), num_positions) if positions else 0
    gaps = [after - before - 1 for before, after in zip([-1, *positions], positions, strict=False)]
    low = [[gap >> bit & 1 for gap in gaps] for bit in range(k)]
    return [*low, [bit for gap in gaps for bit in [0] * (gap >> k) + [1]]]


@given(case=position_lists())
@example(case=([], 5))
@example(case=([0], 1))
@example(case=([2**18 - 1], 2**18))
@example(case=([0, 2**18 - 1], 2**18))
@example(case=(list(range(300)), 300))
def test_positions_are_written_as_documented_and_come_back(case: tuple[list[int], int]) -> None:
    positions, num_positions = case
    planes = [np.packbits(np.array(bits, dtype=np.uint8), bitorder="little").tobytes() for bits in naive_bits(*case)]
    data = write(positions, num_positions)
    assert data == b"".join(planes)
    assert rice.read_positions(memoryview(data), len(positions), num_positions).tolist() == positions
    assert len(data) <= rice.most_bytes(len(positions), num_positions)


def test_bound_on_the_size_is_reached_by_gaps_that_waste_nothing() -> None:
    num_positions, count = 4096, 64
    positions = [0, *range(33, 95), num_positions - 1]  # gaps of 0, 32, 0, ..., 0, 4000: no low bit is set
    assert len(write(positions, num_positions)) == rice.most_bytes(count, num_positions)


@pytest.mark.parametrize(("per_block", "k", "most_bits"), [(67, 5, 7.47), (512, 2, 4.44)])
def test_random_positions_take_close_to_the_least(per_block: int, k: int, most_bits: float) -> None:
    generator = np.random.default_rng(0)
    blocks = [np.sort(generator.permutation(4096)[:per_block]) + 4096 * block for block in range(64)]
    positions = np.concatenate(blocks)
    assert naive_parameter(len(positions), 2**18) == k
    assert 8 * len(rice.write_positions(positions, 2**18)) / len(positions) < most_bits


@given(case=position_lists(), data=st.data())
def test_changed_bytes_are_refused_or_are_the_encoding_of_other_positions(
    case: tuple[list[int], int], data: st.DataObject
) -> None:
    positions, num_positions = case
    wrong = bytearray(write(positions, num_positions))
    for _ in range(data.draw(st.integers(0, 3)) if wrong else 0):
        wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    wrong = wrong[: data.draw(st.integers(0, len(wrong)))] + data.draw(st.binary(max_size=3))
    try:
        read = rice.read_positions(memoryview(bytes(wrong)), len(positions), num_positions)
    except DecodeError:
        return
    assert len(read) == len(positions)
    assert write(read.tolist(), num_positions) == wrong


def test_each_way_to_be_wrong_is_named() -> None:
    valid = write([5, 100, 255], 300)  # k = 6: six planes of one byte, then the quotients 0, 1 and 2
    assert valid[6:] == bytes([0b00100101])
    for wrong, why in [
        (valid[:-1], "cannot be 3 positions"),
        (valid + bytes(9), "cannot be 3 positions"),
        (valid[:6] + bytes([0b00100001]), "does not end with the last"),
        (valid[:6] + bytes([0b00101101]), "does not end with the last"),
        (bytes([0b1001]) + valid[1:], "behind the last one"),
        (b"\x07" * 6 + bytes([0b10001001]), "behind the end"),
    ]:
        with pytest.raises(DecodeError, match=why):
            rice.read_positions(memoryview(wrong), 3, 300)


def test_clear_byte_behind_the_last_quotient_is_refused() -> None:
    valid = write(list(range(8)), 256)
    assert rice.read_positions(memoryview(valid), 8, 256).tolist() == list(range(8))
    with pytest.raises(DecodeError, match="does not end with the last"):
        rice.read_positions(memoryview(valid + b"\0"), 8, 256)
