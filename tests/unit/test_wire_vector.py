from __future__ import annotations

import contextlib
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.vector import (
    CHUNK_ELEMENTS,
    VectorReader,
    encode_chunks,
    num_chunks,
    size_bounds,
    write_vector,
)
from tests.conftest import Goldens

LONG = 2 * CHUNK_ELEMENTS + 300  # three chunks, the last one short
SHORT = 300


def container(codec: Codec, vector: Tensor) -> bytes:
    out = io.BytesIO()
    write_vector(out, codec, len(vector), encode_chunks(codec, vector))
    return out.getvalue()


def read(data: bytes, codec: Codec, num_elements: int) -> Tensor:
    reader = VectorReader(memoryview(data), codec, num_elements)
    return torch.cat([reader.chunk(index) for index in range(len(reader))])


def noise(num_elements: int) -> Tensor:
    return torch.randn(num_elements, generator=torch.Generator().manual_seed(num_elements))


VALID = {codec: container(codec, noise(SHORT)) for codec in Codec}


@pytest.mark.parametrize("codec", list(Codec))
def test_bytes_of_the_format_never_change(codec: Codec, goldens: Goldens) -> None:
    exact = torch.tensor([(37 * index % 101 - 50) / 64 for index in range(SHORT)])
    goldens.check(f"vector_{codec}.hex", container(codec, exact).hex("\n", 32) + "\n")


def test_long_fp32_vector_comes_back_exactly() -> None:
    x = noise(LONG)
    assert torch.equal(read(container(Codec.FP32, x), Codec.FP32, LONG), x)


def test_chunks_decode_independently_of_each_other() -> None:
    reader = VectorReader(memoryview(container(Codec.INT8, noise(LONG))), Codec.INT8, LONG)
    assert len(reader) == num_chunks(LONG) == 3
    assert torch.equal(
        reader.chunk(2), read(container(Codec.INT8, noise(LONG)), Codec.INT8, LONG)[2 * CHUNK_ELEMENTS :]
    )


@pytest.mark.parametrize("codec", list(Codec))
def test_added_and_copied_vectors_are_what_was_decoded(codec: Codec) -> None:
    data = container(codec, noise(LONG))
    reader, decoded = VectorReader(memoryview(data), codec, LONG), read(data, codec, LONG)
    start = noise(LONG + 1)[1:].clone()
    added, copied = start.clone(), start.clone()
    reader.add_to(added)
    reader.copy_to(copied)
    assert torch.equal(added, start + decoded)
    assert torch.equal(copied, decoded)


def test_container_may_start_anywhere_in_a_file() -> None:
    out = io.BytesIO(b"before")
    out.seek(6)
    write_vector(out, Codec.FP32, SHORT, encode_chunks(Codec.FP32, noise(SHORT)))
    assert out.getvalue() == b"before" + VALID[Codec.FP32]


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("num_elements", [1, SHORT, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, LONG])
def test_encoded_size_lies_within_the_announced_bounds(codec: Codec, num_elements: int) -> None:
    low, high = size_bounds(codec, num_elements)
    assert low <= len(container(codec, noise(num_elements))) <= high


@given(codec=st.sampled_from(Codec), data=st.binary(max_size=2000))
def test_noise_is_refused(codec: Codec, data: bytes) -> None:
    with pytest.raises(DecodeError):
        read(data, codec, SHORT)


@given(codec=st.sampled_from(Codec), data=st.data())
def test_truncated_or_lengthened_vector_is_refused(codec: Codec, data: st.DataObject) -> None:
    valid = VALID[codec]
    cut = data.draw(st.integers(0, len(valid) - 1))
    tail = data.draw(st.binary(min_size=1, max_size=40))
    for wrong in (valid[:cut], valid + tail):
        with pytest.raises(DecodeError):
            read(wrong, codec, SHORT)


@given(codec=st.sampled_from(Codec), data=st.data())
def test_flipped_bit_is_refused_or_changes_numbers_only(codec: Codec, data: st.DataObject) -> None:
    wrong = bytearray(VALID[codec])
    position = data.draw(st.integers(0, len(wrong) - 1))
    wrong[position] ^= 1 << data.draw(st.integers(0, 7))
    if position < 28:  # the header and the only chunk's length
        with pytest.raises(DecodeError):
            read(bytes(wrong), codec, SHORT)
        return
    with contextlib.suppress(DecodeError):  # a scale that no encoder writes
        assert len(read(bytes(wrong), codec, SHORT)) == SHORT


@pytest.mark.parametrize(("codec", "other"), [(a, b) for a in Codec for b in Codec if a is not b])
def test_vector_of_another_codec_or_size_is_refused(codec: Codec, other: Codec) -> None:
    with pytest.raises(DecodeError):
        VectorReader(memoryview(VALID[codec]), other, SHORT)
    for num_elements in (SHORT - 1, SHORT + 1):
        with pytest.raises(DecodeError):
            VectorReader(memoryview(VALID[codec]), codec, num_elements)


def test_chunk_lengths_that_shift_bytes_between_chunks_are_refused() -> None:
    data = bytearray(container(Codec.INT8, noise(LONG)))
    first, second = (int.from_bytes(data[at : at + 4], "little") for at in (24, 28))
    data[24:28], data[28:32] = (first - 1).to_bytes(4, "little"), (second + 1).to_bytes(4, "little")
    with pytest.raises(DecodeError, match="a chunk has"):
        read(bytes(data), Codec.INT8, LONG)
