"""What a contribution must be before it may count: announced honestly, the right size, decodable, finite."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.blobs import mapped
from coordinator.records import Lease
from coordinator.refused import Refused
from diffusion_at_home.audit.residual import is_commitment
from diffusion_at_home.config.run import Codec
from diffusion_at_home.rpc.coordinator_pb2 import Refusal, SubmitHeader
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.vector import VectorReader, size_bounds

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Expected:
    """What every contribution of a run must be."""

    codec: Codec
    num_elements: int
    feedback: float = 0.0
    shown_leaves: int = 0
    """Of its residual, before it counts."""

    @property
    def shows(self) -> bool:
        """Whether workers commit to their residuals and show some of them."""
        return self.feedback > 0 and self.shown_leaves > 0


def check_sha256(sha256: str) -> None:
    """Refuse what cannot name a contribution."""
    if not _SHA256.fullmatch(sha256):
        raise Refused(Refusal.REFUSAL_MALFORMED, "sha256 must be 64 hexadecimal digits in lower case")


def screen_header(header: SubmitHeader, lease: Lease, expected: Expected) -> None:
    """Check what a Submit announces, before a byte of it is stored. Raises `Refused`."""
    check_sha256(header.sha256)
    lowest, highest = size_bounds(expected.codec, expected.num_elements)
    if not lowest <= header.size_bytes <= highest:
        raise Refused(
            Refusal.REFUSAL_WRONG_SIZE, f"size_bytes = {header.size_bytes} is not within {lowest} to {highest}"
        )
    if not 1 <= header.images <= lease.quota_images:
        raise Refused(Refusal.REFUSAL_WRONG_IMAGES, f"images = {header.images} is not within 1 to {lease.quota_images}")
    if header.offset > header.size_bytes:
        raise Refused(Refusal.REFUSAL_WRONG_OFFSET, f"offset = {header.offset} lies behind the end")
    if not math.isfinite(header.mean_loss):
        raise Refused(Refusal.REFUSAL_NOT_FINITE, f"mean_loss = {header.mean_loss} is not a finite number")
    if header.train_ms >= 2**53:
        raise Refused(Refusal.REFUSAL_MALFORMED, "train_ms must be under 2^53")
    _screen_commitment(header, expected)


def _screen_commitment(header: SubmitHeader, expected: Expected) -> None:
    before, after = header.residual_before, header.residual_after
    if after and not expected.feedback:
        raise Refused(Refusal.REFUSAL_MALFORMED, "residual_after must be empty: this run has no error feedback")
    if expected.shows and not after:
        raise Refused(Refusal.REFUSAL_MALFORMED, "residual_after is missing: this run wants commitments to residuals")
    if (after and not is_commitment(after)) or (before and not (after and is_commitment(before))):
        raise Refused(Refusal.REFUSAL_MALFORMED, "residual_before and residual_after must have 32 bytes, or none")


def screen_file(path: Path, sha256: str, expected: Expected) -> None:
    """Check a whole contribution in memory that does not depend on its size. Blocks. Raises `Refused`."""
    with mapped(path) as data:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Refused(Refusal.REFUSAL_WRONG_DIGEST, "the bytes that arrived do not have the announced sha256")
        try:
            finite = VectorReader(data, expected.codec, expected.num_elements).is_finite()
        except DecodeError as error:
            raise Refused(Refusal.REFUSAL_UNDECODABLE, f"not a {expected.codec.value} vector: {error}") from None
    if not finite:
        raise Refused(Refusal.REFUSAL_NOT_FINITE, "a value is infinite or not a number")
