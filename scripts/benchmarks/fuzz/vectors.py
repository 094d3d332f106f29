"""Encoded vectors: as the coordinator screens what is handed in, and as a worker applies what is published."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import torch

from benchmarks.fuzz.mutation import mutate_bytes
from benchmarks.fuzz.target import Read, Target, WronglyAccepted
from coordinator.records import Lease, LeaseState
from coordinator.records import LeaseId as LedgerLeaseId
from coordinator.refused import Refused
from coordinator.screening import Expected, screen_file, screen_header
from diffusion_at_home.config.run import Codec
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.rpc.coordinator_pb2 import SubmitHeader
from diffusion_at_home.wire.layout import Layout, Slot
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader, encode_chunks, write_vector
from worker.blobs import BlobFetcher, BlobRef
from worker.grant import Grant, LeaseId, WeightsBlob
from worker.replica import Replica

_NUM_ELEMENTS: Final = 4_500
"""Two blocks of the sparse codecs, the last of all codecs' blocks not whole."""

_SEVERAL_CHUNKS: Final = CHUNK_ELEMENTS + 77
_NEVER: Final = threading.Event()
_RANGE: Final = ShardRange(epoch=0, shard=0, start=0, count=8)
_LEASE: Final = Lease(LedgerLeaseId(1), WorkerId("a" * 16), 0, (_RANGE,), 7, 8, 1e-3, LeaseState.ACTIVE, 1)


def vectors(scratch: Path) -> list[Target]:
    """Both sides."""
    examples = {codec: _examples(codec) for codec in Codec}
    path = scratch / "contribution"

    def screened(rng: random.Random) -> Read:
        codec, num_elements, data = _mutant(examples, rng)
        path.write_bytes(data)
        return lambda: _screen(path, data, codec, num_elements)

    def applied(rng: random.Random) -> Read:
        codec, num_elements, data = _mutant(examples, rng)
        return lambda: _apply(data, codec, num_elements, is_snapshot=codec is Codec.FP32)

    return [
        Target("vector_screened", 14, screened, (Refused,)),
        Target("vector_applied", 10, applied, (LeaseLost,)),
    ]


def _examples(codec: Codec) -> list[tuple[int, bytes]]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_NUM_ELEMENTS, generator=generator)
    found = [noise, 1e-3 * noise.flip(0), torch.zeros(_NUM_ELEMENTS), noise * (noise > 2)]
    if codec in {Codec.SPARSE, Codec.SPARSE_WIDE}:  # the others would be hundreds of kilobytes
        found += [torch.nn.functional.pad(noise, (0, _SEVERAL_CHUNKS - _NUM_ELEMENTS))]
    return [(len(vector), _encoded(codec, vector)) for vector in found]


def _encoded(codec: Codec, vector: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    write_vector(buffer, codec, len(vector), encode_chunks(codec, vector))
    return buffer.getvalue()


def _mutant(examples: Mapping[Codec, list[tuple[int, bytes]]], rng: random.Random) -> tuple[Codec, int, bytes]:
    codec = rng.choice(list(Codec))
    num_elements, data = rng.choice(examples[codec])
    _, other = rng.choice(examples[rng.choice([codec, codec, *Codec])])
    return codec, num_elements, mutate_bytes(data, other, rng)


def _screen(path: Path, data: bytes, codec: Codec, num_elements: int) -> None:
    """What passes is aggregated: every chunk of it must decode, to finite numbers."""
    sha256, expected = hashlib.sha256(data).hexdigest(), Expected(codec, num_elements)
    screen_header(SubmitHeader(sha256=sha256, size_bytes=len(data), images=1), _LEASE, expected)
    screen_file(path, sha256, expected)
    total = torch.zeros(num_elements)
    VectorReader(memoryview(data), codec, num_elements).add_to(total)
    if not total.isfinite().all():
        raise WronglyAccepted("a contribution that is not finite")


class _Blobs:
    """In place of `BlobFetcher`: what it has found to have the right digest."""

    def __init__(self, data: Mapping[str, bytes]) -> None:
        self._data = data

    @contextmanager
    def open(self, blob: BlobRef, _interrupt: threading.Event) -> Iterator[memoryview]:
        yield memoryview(self._data[blob.sha256])


def _apply(data: bytes, codec: Codec, num_elements: int, *, is_snapshot: bool) -> None:
    layout = Layout((Slot("weights", (num_elements,), 0, num_elements),))
    weights = torch.zeros(num_elements)
    snapshot = _encoded(Codec.FP32, weights)
    blobs = {"0": snapshot, "1": data}
    replica = Replica(layout, codec, cast("BlobFetcher", _Blobs(blobs)))
    digest = layout.weights_digest(weights)
    first = WeightsBlob(0, is_snapshot=True, blob=BlobRef("0", len(snapshot)), weights_digest=digest)
    second = WeightsBlob(1, is_snapshot=is_snapshot, blob=BlobRef("1", len(data)), weights_digest=digest)
    replica.bring_to(_grant(1, digest, (first, second)), _NEVER)


def _grant(version: int, digest: str, catch_up: tuple[WeightsBlob, ...]) -> Grant:
    return Grant(
        lease_id=LeaseId(1),
        round=version + 1,
        base_version=version,
        base_digest=digest,
        catch_up=catch_up,
        ranges=(_RANGE,),
        seed=1,
        quota_images=8,
        learning_rate=1e-3,
        codec=Codec.INT8,
        next_heartbeat_seconds=1.0,
        closes_in_seconds=0.0,
        upcoming=(),
    )
