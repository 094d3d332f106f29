"""A lease as the worker holds it: every field of the wire checked against what the run's specification allows.

What is out of bounds is refused as `LeaseLost("malformed_grant")` before anything is fetched or sized by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NewType

from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import size_bounds
from worker.blobs import BlobRef

LeaseId = NewType("LeaseId", int)

_MAX_UPCOMING: Final = 64
_LONGEST_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class WeightsBlob:
    """One step towards the base version."""

    version: int
    """The version it leads to."""
    is_snapshot: bool
    """All weights, rather than the difference from the version before."""
    blob: BlobRef
    weights_digest: str
    """What the weights of `version` must have (hex)."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The right and the duty to train on `ranges` from `base_version`."""

    lease_id: LeaseId
    round: int
    base_version: int
    base_digest: str
    catch_up: tuple[WeightsBlob, ...]
    """In order; empty when the base is already held."""
    ranges: tuple[ShardRange, ...]
    """Samples in training order."""
    seed: int
    quota_images: int
    learning_rate: float
    codec: Codec
    """Of the contribution."""
    next_heartbeat_seconds: float
    closes_in_seconds: float
    """Until the round is expected to close; 0 when not known."""
    upcoming: tuple[BlobRef, ...]
    """Shards that the next leases will probably need."""

    @property
    def terms(self) -> LeaseTerms:
        """What this worker signs that it has trained by."""
        return LeaseTerms(self.base_version, self.base_digest, self.seed, self.learning_rate, self.ranges)


class GrantReader:
    """Reads grants of one run."""

    def __init__(self, config: RunConfig, data: DataManifest, layout: Layout) -> None:
        self._data = data
        self._by_sha256 = {entry.sha256: BlobRef(entry.sha256, entry.size_bytes) for entry in data.train}
        self._most_bytes = {
            True: size_bounds(Codec.FP32, layout.num_elements)[1],
            False: size_bounds(config.codec.update, layout.num_elements)[1],
        }

    def read(self, message: pb.LeaseGrant) -> Grant:
        """Check `message`. Raises `LeaseLost`."""
        ranges = tuple(self._range(part) for part in message.ranges)
        quota = sum(part.count for part in ranges)
        _require(quota > 0 and quota == message.quota_images, "quota_images is not the sum of ranges")
        _require(math.isfinite(message.learning_rate) and message.learning_rate > 0, "learning_rate is not positive")
        return Grant(
            lease_id=LeaseId(message.lease_id),
            round=message.round,
            base_version=message.base_version,
            base_digest=message.base_digest,
            catch_up=tuple(self._weights(blob) for blob in message.catch_up),
            ranges=ranges,
            seed=message.seed,
            quota_images=quota,
            learning_rate=message.learning_rate,
            codec=_codec(message.codec),
            next_heartbeat_seconds=heartbeat_seconds(message.next_heartbeat_ms),
            closes_in_seconds=message.closes_in_ms / 1000,
            upcoming=tuple(
                self._by_sha256[name] for name in message.upcoming_shards[:_MAX_UPCOMING] if name in self._by_sha256
            ),
        )

    def _range(self, message: pb.ShardRange) -> ShardRange:
        _require(message.shard < len(self._data.train), f"shard {message.shard} is not in the data manifest")
        end = message.start + message.count
        num_samples = self._data.train[message.shard].num_samples
        _require(message.count > 0 and end <= num_samples, f"shard {message.shard} has no samples up to {end}")
        return ShardRange(epoch=message.epoch, shard=message.shard, start=message.start, count=message.count)

    def _weights(self, message: pb.Blob) -> WeightsBlob:
        _require(message.kind in {pb.Blob.KIND_SNAPSHOT, pb.Blob.KIND_UPDATE}, "a blob has no known kind")
        is_snapshot = message.kind == pb.Blob.KIND_SNAPSHOT
        most_bytes = self._most_bytes[is_snapshot]
        _require(BlobRef.is_sound(message.sha256, message.size_bytes, most_bytes), "a blob's name or size is unsound")
        blob = BlobRef(message.sha256, message.size_bytes)
        return WeightsBlob(message.version, is_snapshot, blob, message.weights_digest)


def heartbeat_seconds(milliseconds: int) -> float:
    """The pause until the next heartbeat, within reason whatever was sent."""
    return min(max(milliseconds / 1000, 0.1), _LONGEST_SECONDS)


def _codec(name: str) -> Codec:
    try:
        return Codec(name)
    except ValueError:
        raise LeaseLost(f"the coordinator asks for the codec {name!r:.40}, which is none", "malformed_grant") from None


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise LeaseLost(f"the coordinator sent a lease that cannot be: {what}", "malformed_grant")
