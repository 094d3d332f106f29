"""Deltas of a round, made up: honest ones agree as real ones do, more or less, and what attackers make of theirs."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from torch import Tensor

from coordinator.records import Contribution, LeaseId
from coordinator.sketch import Sketcher
from coordinator.verdicts import Given
from diffusion_at_home.config.run import Codec
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector

NUM_ELEMENTS = 50_000
SKETCHER = Sketcher(key=0x1234567)


def reader(vector: Tensor, codec: Codec = Codec.FP32) -> VectorReader:
    out = io.BytesIO()
    write_vector(out, codec, len(vector), encode_chunks(codec, vector))
    return VectorReader(memoryview(out.getvalue()), codec, len(vector))


def noise(seed: int, num_elements: int = NUM_ELEMENTS) -> Tensor:
    return torch.randn(num_elements, generator=torch.Generator().manual_seed(seed))


def honest(count: int, *, cosine: float = 0.3) -> list[Tensor]:
    """Of equal length, any two of them at about `cosine`: measured on digits it falls from 0.7 to 0.2."""
    common = noise(0)
    return [0.01 * (cosine**0.5 * common + (1 - cosine) ** 0.5 * noise(1 + index)) for index in range(count)]


def given(
    deltas: Sequence[Tensor],
    *,
    images: Sequence[int] | None = None,
    workers: Sequence[int] | None = None,
    newcomers: Sequence[int] = (),
    copies: Sequence[int] = (),
    codec: Codec = Codec.FP32,
) -> list[Given]:
    """One contribution each, of a worker each and of 64 images unless said otherwise; the others name places."""
    return [
        Given(
            _contribution(index, 64 if images is None else images[index], index if workers is None else workers[index]),
            SKETCHER.sketch(reader(delta, codec)),
            index in newcomers,
            index in copies,
        )
        for index, delta in enumerate(deltas)
    ]


def _contribution(index: int, images: int, worker: int) -> Contribution:
    first = ShardRange(epoch=0, shard=index, start=0, count=images)
    name = WorkerId(f"{worker:016}")
    return Contribution(index + 1, LeaseId(index + 1), name, 1, first, f"{index:064}", 1, images, images, 0.5, 1, 1, "")
