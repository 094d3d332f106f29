"""What a contribution must be before it may count."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from coordinator.records import Lease, LeaseId, LeaseState
from coordinator.refused import Refused
from coordinator.screening import Expected, screen_file, screen_header
from diffusion_at_home.config.run import Codec
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.rpc.coordinator_pb2 import Refusal, SubmitHeader
from diffusion_at_home.wire.vector import encode_chunks, size_bounds, write_vector

N = 1000
RANGE = ShardRange(epoch=0, shard=0, start=0, count=16)
LEASE = Lease(LeaseId(1), WorkerId("a" * 16), 0, (RANGE,), 7, 16, 1e-3, LeaseState.ACTIVE, 1)
SIZE = size_bounds(Codec.FP32, N)[0]


def header(**lies: Any) -> SubmitHeader:
    honest: dict[str, Any] = {"sha256": "a" * 64, "size_bytes": SIZE, "images": 16, "mean_loss": 0.5}
    return SubmitHeader(**(honest | lies))


def vector(codec: Codec, values: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    write_vector(buffer, codec, len(values), encode_chunks(codec, values))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("lies", "refusal"),
    [
        ({"sha256": "a" * 63}, Refusal.REFUSAL_MALFORMED),
        ({"sha256": "A" * 64}, Refusal.REFUSAL_MALFORMED),
        ({"sha256": "../" + "a" * 61}, Refusal.REFUSAL_MALFORMED),
        ({"size_bytes": SIZE - 1}, Refusal.REFUSAL_WRONG_SIZE),
        ({"size_bytes": 2**63}, Refusal.REFUSAL_WRONG_SIZE),
        ({"size_bytes": 0}, Refusal.REFUSAL_WRONG_SIZE),
        ({"images": 0}, Refusal.REFUSAL_WRONG_IMAGES),
        ({"images": 17}, Refusal.REFUSAL_WRONG_IMAGES),
        ({"offset": SIZE + 1}, Refusal.REFUSAL_WRONG_OFFSET),
        ({"mean_loss": math.nan}, Refusal.REFUSAL_NOT_FINITE),
        ({"mean_loss": math.inf}, Refusal.REFUSAL_NOT_FINITE),
        ({"train_ms": 2**53}, Refusal.REFUSAL_MALFORMED),
    ],
)
def test_header_that_lies_is_refused_by_name(lies: dict[str, Any], refusal: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        screen_header(header(**lies), LEASE, Expected(Codec.FP32, N))
    assert refused.value.refusal == refusal


def test_honest_header_passes() -> None:
    screen_header(header(images=1), LEASE, Expected(Codec.FP32, N))
    screen_header(header(offset=SIZE), LEASE, Expected(Codec.FP32, N))


def screened(path: Path, data: bytes, codec: Codec, sha256: str = "") -> None:
    path.write_bytes(data)
    screen_file(path, sha256 or hashlib.sha256(data).hexdigest(), Expected(codec, N))


@pytest.mark.parametrize("codec", Codec)
def test_honest_vector_passes(tmp_path: Path, codec: Codec) -> None:
    screened(tmp_path / "v", vector(codec, torch.randn(N)), codec)


def test_other_bytes_than_announced_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        screened(tmp_path / "v", vector(Codec.FP32, torch.randn(N)), Codec.FP32, sha256="b" * 64)
    assert refused.value.refusal == Refusal.REFUSAL_WRONG_DIGEST


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    values = torch.zeros(N)
    values[N - 1] = value
    with pytest.raises(Refused) as refused:
        screened(tmp_path / "v", vector(Codec.FP32, values), Codec.FP32)
    assert refused.value.refusal == Refusal.REFUSAL_NOT_FINITE


@pytest.mark.parametrize("codec", Codec)
def test_vector_of_another_codec_or_length_is_undecodable(tmp_path: Path, codec: Codec) -> None:
    other = Codec.INT8 if codec is Codec.FP32 else Codec.FP32
    for data in (vector(other, torch.zeros(N)), vector(codec, torch.zeros(N - 1)), b"x" * SIZE):
        with pytest.raises(Refused) as refused:
            screened(tmp_path / "v", data, codec)
        assert refused.value.refusal == Refusal.REFUSAL_UNDECODABLE
