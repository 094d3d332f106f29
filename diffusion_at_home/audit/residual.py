"""Checking a delta that depends on what its worker left out before: one chunk of the residual is shown, and must fit.

With error feedback f a worker encodes  left = f before + delta,  sends  sent = decode(encode(left))  and keeps
after = left - sent  (`wire/feedback.py`). So  delta = sent + after - f before  chunk by chunk: whoever recomputes the lease and
is shown one chunk of `before` and of `after`, both committed to when the delta was handed in, can compare that chunk. And
what was sent must be the encoding of what there was to send: else anything could be sent, and taken back by what is kept.

A commitment is the root of a Merkle tree over the chunks of `wire/vector.py`, fp32 little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.audit.agreement import Agreement, Tolerance, agreement
from diffusion_at_home.audit.merkle import MerkleTree, is_included
from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, num_chunks

_REENCODED: Final = 0.05
"""Most that what was sent may differ from the encoding of sent + after, as a share of its length: a codec that keeps the larger
of two elements may keep the other one once rounding has made them equal. One such choice in a chunk of sparse is 0.022."""


class Misfit(StrEnum):
    """Why a chunk that was shown does not fit."""

    NONE = ""
    NOT_COMMITTED = "not_committed"
    """It is not what the commitment says."""
    NOT_FINITE = "not_finite"
    NOT_ENCODED = "not_encoded"
    """What was sent is not the encoding of what there was to send."""
    NOT_TRAINED = "not_trained"
    """The delta that follows from it is not what the lease gives."""


@dataclass(frozen=True, slots=True)
class ShownChunk:
    """One chunk of a residual, on challenge, as it came over the wire."""

    data: bytes
    """fp32, little-endian."""
    proof: tuple[bytes, ...]
    """See `MerkleTree.proof`."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """Which chunk of which contribution was asked for, and what its worker had committed to."""

    index: int
    num_elements: int
    """Of the whole vector."""
    before_root: bytes
    """Of the residual that was added."""
    after_root: bytes
    """Of what the encoding left out."""
    codec: Codec
    feedback: float

    @property
    def chunk_elements(self) -> int:
        """Elements of the chunk."""
        return min(CHUNK_ELEMENTS, self.num_elements - self.index * CHUNK_ELEMENTS)


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a challenge."""

    misfit: Misfit
    agreement: Agreement | None
    """Of the implied with the recomputed delta; None where it did not come to that."""


def commitment(residual: Tensor) -> MerkleTree:
    """The tree over a residual, fp32 (n,), n > 0."""
    return MerkleTree(chunk.numpy().data.cast("B") for chunk in torch.split(residual.contiguous(), CHUNK_ELEMENTS))


def show(residual: Tensor, tree: MerkleTree, index: int) -> ShownChunk:
    """What a worker answers to a challenge; `tree` is that of `residual`."""
    chunk = residual[index * CHUNK_ELEMENTS : (index + 1) * CHUNK_ELEMENTS]
    return ShownChunk(chunk.contiguous().numpy().tobytes(), tree.proof(index))


def implied_delta(sent: Tensor, before: Tensor, after: Tensor, feedback: float) -> Tensor:
    """The delta that a worker says it had, fp32 (m,): the recomputed one but for the rounding of three additions."""
    return (sent + after).sub_(before, alpha=feedback)


def check_chunk(
    challenge: Challenge,
    *,
    sent: Tensor,
    recomputed: Tensor,
    before: ShownChunk,
    after: ShownChunk,
    tolerance: Tolerance,
) -> Checked:
    """Whether the chunk fits.

    Args:
        challenge: what was asked.
        sent: the chunk as it was handed in, decoded; fp32 (m,).
        recomputed: the chunk of the delta that the lease gives; fp32 (m,).
        before: what the worker shows of the residual that it added.
        after: and of the one that it kept.
        tolerance: what the delta may be off.
    """
    shown = [_read(before, challenge, challenge.before_root), _read(after, challenge, challenge.after_root)]
    if any(chunk is None for chunk in shown):
        return Checked(Misfit.NOT_COMMITTED, None)
    was, kept = (chunk for chunk in shown if chunk is not None)
    if not (bool(torch.isfinite(was).all()) and bool(torch.isfinite(kept).all())):
        return Checked(Misfit.NOT_FINITE, None)
    if not _is_encoding(sent, kept, challenge.codec):
        return Checked(Misfit.NOT_ENCODED, None)
    found = agreement([(implied_delta(sent, was, kept, challenge.feedback), recomputed)])
    return Checked(Misfit.NONE if tolerance.allows(found) else Misfit.NOT_TRAINED, found)


def _read(shown: ShownChunk, challenge: Challenge, root: bytes) -> Tensor | None:
    """The chunk as fp32 (m,), or None if it is not the one that was committed to."""
    if len(shown.data) != 4 * challenge.chunk_elements:
        return None
    chunks = num_chunks(challenge.num_elements)
    if not is_included(shown.data, index=challenge.index, num_chunks=chunks, proof=shown.proof, root=root):
        return None
    return torch.frombuffer(bytearray(shown.data), dtype=torch.float32)


def _is_encoding(sent: Tensor, kept: Tensor, codec: Codec) -> bool:
    """Whether `sent` is what `codec` makes of sent + kept, but for rounding."""
    coder = chunk_codec(codec)
    left = sent + kept
    if not bool(torch.isfinite(left).all()):
        return False
    again = coder.decode(memoryview(coder.encode(left)), len(left))
    return float((again - sent).norm()) <= _REENCODED * float(sent.norm())
