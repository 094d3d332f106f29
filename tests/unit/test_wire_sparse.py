from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire import rice
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.sparse import BLOCK
from tests.conftest import Goldens

KEPT = {Codec.SPARSE: 67, Codec.SPARSE_WIDE: 512}
codecs = st.sampled_from(list(KEPT))
each_codec = pytest.mark.parametrize("codec", list(KEPT))

FLOATS = st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120)
CLOSE_OR_EXTREME = [0.0, -0.0, 1.0, -1.0, 1.0 + 2**-20, 0.75, 0.5, 1e-3, 1e-40, 2.0**-126, 2.0**120]


def noise(num_elements: int, seed: int, heavy: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_elements, generator=generator)
    return x / torch.randn(num_elements, generator=generator) if heavy else x


@st.composite
def vectors(draw: st.DrawFn) -> Tensor:
    """Noise of any tail over zero to three blocks, with patches of zeros, ties and extremes."""
    num_elements = draw(st.one_of(st.integers(1, 300), st.integers(BLOCK - 2, 3 * BLOCK)))
    x = noise(num_elements, draw(st.integers(0, 1000)), draw(st.booleans())).clamp(-1e30, 1e30)
    x *= draw(st.sampled_from([0.0, 1e-42, 1e-38, 1e-5, 1.0, 1e6]))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, num_elements - 1))
        x[begin : begin + draw(st.sampled_from([1, 64, 500, 5000]))] = draw(
            st.one_of(st.sampled_from(CLOSE_OR_EXTREME), FLOATS)
        )
    return x


def encode(codec: Codec, x: Tensor) -> bytes:
    return chunk_codec(codec).encode(x)


def decode(codec: Codec, data: bytes, num_elements: int) -> Tensor:
    return chunk_codec(codec).decode(memoryview(data), num_elements)


def most_kept(codec: Codec, length: int) -> int:
    return max(1, KEPT[codec] * length // BLOCK)


def naive_decode(data: bytes, num_elements: int) -> list[float]:
    """The documented format, bit by bit."""
    num_blocks = (num_elements + BLOCK - 1) // BLOCK
    scales = [struct.unpack("<f", b"\0\0" + data[2 * block : 2 * block + 2])[0] for block in range(num_blocks)]
    at = 2 * num_blocks
    count = int.from_bytes(data[at : at + 4], "little")
    at += 4

    def bit(start: int, index: int) -> int:
        return data[start + index // 8] >> index % 8 & 1

    size = (count + 7) // 8
    k = 0
    while 100 * count * 2**k < 48 * num_elements and count:
        k += 1
    unary = at + (1 + k) * size
    values, position, cursor = [0.0] * num_elements, -1, 0
    for index in range(count):
        quotient = 0
        while not bit(unary, cursor):
            quotient, cursor = quotient + 1, cursor + 1
        cursor += 1
        low = sum(bit(at + (1 + j) * size, index) << j for j in range(k))
        position += (quotient << k) + low + 1
        values[position] = (-1 if bit(at, index) else 1) * scales[position // BLOCK]
    assert (cursor + 7) // 8 == len(data) - unary
    return values


@given(codec=codecs, x=vectors())
@example(codec=Codec.SPARSE, x=torch.zeros(1))
@example(codec=Codec.SPARSE, x=torch.zeros(5000))
@example(codec=Codec.SPARSE_WIDE, x=torch.ones(2 * BLOCK))
@example(codec=Codec.SPARSE, x=torch.tensor([3.4028234e38, -3.4028234e38]))
def test_chunk_decodes_by_the_documented_rule_alone_and_within_its_bounds(codec: Codec, x: Tensor) -> None:
    data = encode(codec, x)
    decoded = decode(codec, data, len(x))
    assert decoded.numpy().tobytes() == np.array(naive_decode(data, len(x)), dtype=np.float32).tobytes()
    assert bool(torch.isfinite(decoded).all())
    low, high = chunk_codec(codec).bounds(len(x))
    assert low <= len(data) <= high


@given(codec=codecs, x=vectors())
def test_what_is_decoded_is_encoded_to_the_same_bytes(codec: Codec, x: Tensor) -> None:
    data = encode(codec, x)
    assert encode(codec, decode(codec, data, len(x))) == data


@given(codec=codecs, x=vectors())
def test_squared_error_and_count_of_each_block_stay_within_their_bounds(codec: Codec, x: Tensor) -> None:
    decoded = decode(codec, encode(codec, x), len(x)).double()
    for block, read in zip(torch.split(x.double(), BLOCK), torch.split(decoded, BLOCK), strict=True):
        most = most_kept(codec, len(block))
        energy, largest = float(block.square().sum()), float(block.abs().topk(most).values.sum())
        assert int((read != 0).sum()) <= most
        if not read.any():
            assert largest / most < 2.0**-126
            continue
        assert float((block - read).square().sum()) <= (energy - (1 - 2**-16) * largest**2 / most) * (1 + 1e-9)
        kept = read != 0
        assert bool((block[kept].sign() == read[kept].sign()).all())
        left_out = block[~kept].abs()
        assert float(block[kept].abs().min()) >= float(left_out.max() if len(left_out) else 0.0)


@each_codec
def test_bytes_of_the_format_never_change(codec: Codec, goldens: Goldens) -> None:
    exact = torch.tensor([(37 * index**3 % 8191 - 4095) / 1024 for index in range(2 * BLOCK + 500)])
    exact[BLOCK : 2 * BLOCK] = 0.0
    goldens.check(f"chunk_{codec}.hex", encode(codec, exact).hex("\n", 32) + "\n")


@each_codec
def test_of_equal_magnitudes_the_first_are_kept(codec: Codec) -> None:
    x = torch.ones(2 * BLOCK)
    x[1::2] = -1
    x[BLOCK + 100] = 5.0
    others = [index for index in range(BLOCK) if index != 100]
    decoded = decode(codec, encode(codec, x), len(x))
    kept = KEPT[codec]
    assert torch.equal(decoded[:kept], x[:kept])
    assert not decoded[kept:BLOCK].any()
    assert torch.nonzero(decoded[BLOCK:]).flatten().tolist() == sorted([100, *others[: kept - 1]])


def test_one_giant_is_kept_alone_and_exactly() -> None:
    x = torch.full((BLOCK,), 1e-3)
    x[7] = -1024.0
    decoded = decode(Codec.SPARSE, encode(Codec.SPARSE, x), BLOCK)
    assert torch.nonzero(decoded).tolist() == [[7]]
    assert float(decoded[7]) == -1024.0


def naive_least_error(magnitudes: list[float]) -> float:
    """The least squared error of one level and zero, by trying every number of descending magnitudes to keep."""
    ways = (
        np.array([float(np.mean(magnitudes[:m]))] * m + [0.0] * (len(magnitudes) - m))
        for m in range(1, len(magnitudes) + 1)
    )
    return min(float(np.square(way - magnitudes).sum()) for way in ways)


@pytest.mark.parametrize("heavy", [False, True])
def test_number_kept_and_scale_come_close_to_the_least_error_there_is(heavy: bool) -> None:
    for seed in range(4):
        x = noise(BLOCK, seed, heavy)
        largest, where = x.abs().topk(KEPT[Codec.SPARSE])
        decoded = decode(Codec.SPARSE, encode(Codec.SPARSE, x), BLOCK)
        error = float((x - decoded)[where].double().square().sum())
        assert error <= 1.001 * naive_least_error(largest.double().tolist())


@each_codec
def test_chunk_that_takes_most_reaches_the_bound_within_a_byte(codec: Codec) -> None:
    x, kept = torch.zeros(4 * BLOCK), KEPT[codec]
    for block in range(4):
        x[block * BLOCK : block * BLOCK + kept] = 1.0
    x[4 * BLOCK - kept :] = 1.0
    x[3 * BLOCK : 3 * BLOCK + kept] = 0.0
    _, high = chunk_codec(codec).bounds(len(x))
    assert high - 1 <= len(encode(codec, x)) <= high


@each_codec
def test_chunk_of_zeros_takes_the_least(codec: Codec) -> None:
    for num_elements in (1, BLOCK, BLOCK + 1, 5 * BLOCK):
        data = encode(codec, torch.zeros(num_elements))
        assert len(data) == chunk_codec(codec).bounds(num_elements)[0] == 2 * -(-num_elements // BLOCK) + 4
        assert not decode(codec, data, num_elements).any()


@pytest.mark.parametrize(("codec", "most"), [(Codec.SPARSE, 0.0181), (Codec.SPARSE_WIDE, 0.088)])
def test_random_positions_take_what_the_format_promises(codec: Codec, most: float) -> None:
    assert len(encode(codec, noise(1 << 18, 0, heavy=False))) <= most * (1 << 18)


@each_codec
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(codec: Codec, value: float) -> None:
    x = noise(BLOCK + 10, 0, heavy=False)
    x[BLOCK + 9] = value
    with pytest.raises(ValueError, match="cannot hold"):
        encode(codec, x)


@given(codec=codecs, x=vectors(), data=st.data())
def test_changed_bytes_are_refused_or_are_the_encoding_of_other_finite_numbers(
    codec: Codec, x: Tensor, data: st.DataObject
) -> None:
    wrong = bytearray(encode(codec, x))
    for _ in range(data.draw(st.integers(0, 3))):
        wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    wrong = wrong[: data.draw(st.sampled_from([len(wrong), len(wrong), len(wrong) - 1, len(wrong) // 2]))]
    wrong += data.draw(st.sampled_from([b"", b"", b"\0", b"\1"]))
    try:
        decoded = decode(codec, bytes(wrong), len(x))
    except DecodeError:
        return
    assert bool(torch.isfinite(decoded).all())
    assert encode(codec, decoded) == wrong


VALID = bytes.fromhex("803f02000000020000000000000003")  # 1 and -1, then 298 zeros
SCALE, COUNT, SIGNS, LOW, UNARY = 0, 2, 6, 7, 14


@pytest.mark.parametrize(
    ("at", "wrong", "why"),
    [
        (SCALE, "80bf", "scale is one"),  # negative
        (SCALE, "0080", "scale is one"),  # -0.0
        (SCALE, "807f", "scale is one"),  # infinite
        (SCALE, "c07f", "scale is one"),  # not a number
        (SCALE, "7f00", "scale is one"),  # denormal
        (SCALE, "0000", "does not go with"),
        (COUNT, "05000000", "cannot keep 5"),
        (COUNT, "ffffffff", "cannot keep 4294967295"),
        (COUNT, "03000000", "cannot be 3 positions"),
        (COUNT, "01000000", "cannot be 1 positions"),
        (COUNT, "00000000", "cannot be 0 positions"),
        (SIGNS, "06", "behind the last one"),
        (LOW, "04", "behind the last one"),
        (LOW, "03" "03" "03" "03" "03" "03" "03" "09", "behind the end"),
        (UNARY, "00", "does not end with the last"),
        (UNARY, "07", "does not end with the last"),
        (UNARY, "0300", "cannot be 2 positions"),
    ],
)  # fmt: skip
def test_each_way_to_be_wrong_is_named(at: int, wrong: str, why: str) -> None:
    x = torch.zeros(300)
    x[0], x[1] = 1.0, -1.0
    assert encode(Codec.SPARSE, x) == VALID
    changed = bytes.fromhex(wrong)
    with pytest.raises(DecodeError, match=why):
        decode(Codec.SPARSE, VALID[:at] + changed + VALID[at + len(changed) :], 300)


def test_chunk_that_ends_anywhere_else_is_refused() -> None:
    for cut in range(len(VALID)):
        with pytest.raises(DecodeError):
            decode(Codec.SPARSE, VALID[:cut], 300)


def test_scale_of_a_block_that_keeps_nothing_must_be_zero() -> None:
    with pytest.raises(DecodeError, match="does not go with"):
        decode(Codec.SPARSE, b"\x80\x3f" + bytes(4), 300)


@each_codec
def test_block_that_keeps_more_than_it_may_is_refused_though_the_chunk_does_not(codec: Codec) -> None:
    count = KEPT[codec] + 1
    forged = bytes.fromhex("803f0000") + count.to_bytes(4, "little") + bytes(-(-count // 8))
    forged += rice.write_positions(np.arange(count), 2 * BLOCK)
    with pytest.raises(DecodeError, match="more than it may"):
        decode(codec, forged, 2 * BLOCK)


@each_codec
def test_hostile_chunk_allocates_less_than_the_numbers_it_stands_for(codec: Codec) -> None:
    num_elements = 1 << 18
    most = 64 * KEPT[codec]
    _, high = chunk_codec(codec).bounds(num_elements)
    scales = b"\x80\x3f" * 64
    honest = encode(codec, noise(num_elements, 0, heavy=False))
    for wrong in [
        scales + b"\xff" * (high - len(scales)),
        scales + most.to_bytes(4, "little") + b"\xff" * (high - len(scales) - 4),
        scales + most.to_bytes(4, "little") + bytes(high - len(scales) - 4),
        scales + b"\xff\xff\xff\xff" + honest[132:],
        honest + b"\xff" * 1000,
        honest * 50,
    ]:
        tracemalloc.start()
        with pytest.raises(DecodeError):
            decode(codec, wrong, num_elements)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 4 * num_elements


@given(codec=codecs, x=vectors(), alpha=st.sampled_from([1.0, 0.5, 0.3333333432674408, 1e-6]), seed=st.integers(0, 99))
def test_adding_equals_adding_what_is_decoded_bit_for_bit(codec: Codec, x: Tensor, alpha: float, seed: int) -> None:
    data = encode(codec, x)
    target = noise(len(x), seed, heavy=True)
    target[::3] = 0.0
    expected = target + decode(codec, data, len(x)) * alpha
    chunk_codec(codec).add_to(memoryview(data), target, alpha)
    assert target.numpy().tobytes() == expected.numpy().tobytes()


def test_element_that_is_left_out_stays_as_it_is_even_minus_zero() -> None:
    target = torch.full((BLOCK,), -0.0)
    x = torch.zeros(BLOCK)
    x[5] = 2.0
    chunk_codec(Codec.SPARSE).add_to(memoryview(encode(Codec.SPARSE, x)), target, 1.0)
    assert float(target[5]) == 2.0
    assert int(torch.signbit(target).sum()) == BLOCK - 1


@each_codec
def test_chunk_that_is_refused_adds_nothing(codec: Codec) -> None:
    target, data = torch.ones(BLOCK), bytearray(encode(codec, noise(BLOCK, 0, heavy=False)))
    data[-1] ^= 1 << 7
    with pytest.raises(DecodeError):
        chunk_codec(codec).add_to(memoryview(data), target, 1.0)
    assert torch.equal(target, torch.ones(BLOCK))
