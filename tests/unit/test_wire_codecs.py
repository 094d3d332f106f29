from __future__ import annotations

import json
import struct

import bitsandbytes.functional as bnb
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire import int8
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.codecs import chunk_codec
from tests.conftest import Goldens

FP32, INT8 = chunk_codec(Codec.FP32), chunk_codec(Codec.INT8)
LARGEST_ERROR = 0.0073  # of a block's largest magnitude, as the format says


def noise(num_elements: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(num_elements, generator=torch.Generator().manual_seed(num_elements))


def test_codebook_is_the_published_one(goldens: Goldens) -> None:
    values = int8.SIGNED_CODEBOOK
    goldens.check("int8_codebook.json", json.dumps(values, indent=0) + "\n")
    assert len(values) == 256
    assert values == sorted(values)
    assert -1 <= values[0] < 0.0 < values[-1] == 1


@pytest.mark.parametrize("num_elements", [1, 255, 256, 257, 1000])
def test_int8_is_read_by_bitsandbytes(num_elements: int) -> None:
    codes, absmax = int8.quantize(noise(num_elements))
    assert bnb.create_dynamic_map(signed=True).tolist() == int8.SIGNED_CODEBOOK
    state = bnb.QuantState(
        absmax=absmax, code=torch.tensor(int8.SIGNED_CODEBOOK), blocksize=int8.BLOCK, dtype=torch.float32
    )
    theirs = bnb.dequantize_blockwise(codes, quant_state=state)
    assert theirs.numpy().tobytes() == int8.dequantize(codes, absmax).numpy().tobytes()


def test_codes_of_second_moments_stand_for_what_bitsandbytes_says() -> None:
    assert bnb.create_dynamic_map(signed=False).tolist() == int8.UNSIGNED_CODEBOOK


@pytest.mark.parametrize("num_elements", [1, 255, 256, 257, 1000])
def test_fp32_is_exact(num_elements: int) -> None:
    x = noise(num_elements)
    x[0] = -0.0
    assert FP32.decode(memoryview(FP32.encode(x)), num_elements).numpy().tobytes() == x.numpy().tobytes()


@pytest.mark.parametrize("num_elements", [1, 255, 256, 257, 1000])
def test_int8_decodes_by_the_documented_rule_alone(num_elements: int) -> None:
    data = INT8.encode(noise(num_elements))
    num_blocks = -(-num_elements // 256)
    absmax = np.frombuffer(data[: 4 * num_blocks], dtype="<f4")
    codes = np.frombuffer(data[4 * num_blocks :], dtype=np.uint8)
    naive = np.array(int8.SIGNED_CODEBOOK, dtype=np.float32)[codes] * np.repeat(absmax, 256)[:num_elements]
    assert INT8.decode(memoryview(data), num_elements).numpy().tobytes() == naive.tobytes()


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e30])
def test_int8_error_stays_within_its_bound_at_any_scale(scale: float) -> None:
    x = noise(5000, scale)
    x[300:600] *= 1000  # blocks of unlike size must not touch each other
    absmax = torch.tensor([float(block.abs().max()) for block in torch.split(x, 256)]).repeat_interleave(256)[:5000]
    error = (INT8.decode(memoryview(INT8.encode(x)), 5000) - x).abs()
    assert bool((error <= LARGEST_ERROR * absmax).all())


def test_int8_keeps_zeros() -> None:
    assert not INT8.decode(memoryview(INT8.encode(torch.zeros(300))), 300).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_refuses_to_write_what_it_cannot_hold(value: float) -> None:
    x = noise(300)
    x[299] = value
    with pytest.raises(ValueError, match="int8 cannot hold"):
        INT8.encode(x)


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
def test_int8_scale_that_no_encoder_writes_is_refused(scale: float) -> None:
    data = bytearray(INT8.encode(noise(300)))
    data[4:8] = struct.pack("<f", scale)
    with pytest.raises(DecodeError, match="scale"):
        INT8.decode(memoryview(data), 300)


@given(codec=st.sampled_from(Codec), num_elements=st.integers(1, 2000), data=st.binary(max_size=2100))
def test_chunk_of_another_length_is_refused(codec: Codec, num_elements: int, data: bytes) -> None:
    low, high = chunk_codec(codec).bounds(num_elements)
    if not low <= len(data) <= high:
        with pytest.raises(DecodeError):
            chunk_codec(codec).decode(memoryview(data), num_elements)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("num_elements", [1, 256, 300, 4097])
def test_encoded_chunk_has_a_length_within_its_bounds(codec: Codec, num_elements: int) -> None:
    low, high = chunk_codec(codec).bounds(num_elements)
    assert low <= len(chunk_codec(codec).encode(noise(num_elements))) <= high


@given(codec=st.sampled_from(Codec), num_elements=st.integers(1, 600), changes=st.data())
def test_whether_a_chunk_is_finite_is_known_without_decoding_it(
    codec: Codec, num_elements: int, changes: st.DataObject
) -> None:
    coder = chunk_codec(codec)
    data = bytearray(coder.encode(noise(num_elements)))
    for _ in range(changes.draw(st.integers(0, 2))):
        data[changes.draw(st.integers(0, len(data) - 1))] = changes.draw(st.integers(0, 255))
    try:
        finite = bool(torch.isfinite(coder.decode(memoryview(data), num_elements)).all())
    except DecodeError:
        with pytest.raises(DecodeError):
            coder.is_finite(memoryview(data), num_elements)
    else:
        assert coder.is_finite(memoryview(data), num_elements) == finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fp32_chunk_with_a_number_that_is_not_finite_is_not(value: float) -> None:
    x = noise(300)
    x[299] = value
    assert not FP32.is_finite(memoryview(FP32.encode(x)), 300)
