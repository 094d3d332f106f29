"""The terms of a lease: what, beside the run's specification, decides what it comes to. Its worker signs their digest."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.rpc.coordinator_pb2 import LeaseGrant

_CONTEXT: Final = "dah-lease-v1"


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """As the coordinator has granted them, and as the worker has trained by them."""

    base_version: int
    base_digest: str
    """Of the weights of that version (hex)."""
    seed: int
    learning_rate: float
    ranges: tuple[ShardRange, ...]
    """Samples in training order."""

    @classmethod
    def of_grant(cls, grant: LeaseGrant) -> LeaseTerms:
        """As they travel, unchecked."""
        ranges = (ShardRange(epoch=r.epoch, shard=r.shard, start=r.start, count=r.count) for r in grant.ranges)
        return cls(grant.base_version, grant.base_digest, grant.seed, grant.learning_rate, tuple(ranges))

    @property
    def sha256(self) -> str:
        """In hex, over one line for each fact, the last one without its end; see `SubmitHeader.signature` in the proto.

        The rate is written as its 8 bytes, big-endian, in hex: a decimal would depend on who prints it.
        """
        rate = struct.pack(">d", self.learning_rate).hex()
        lines = [_CONTEXT, str(self.base_version), self.base_digest, str(self.seed), rate]
        lines += [f"{part.epoch} {part.shard} {part.start} {part.count}" for part in self.ranges]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
