"""Checking a delta that depends on what its worker left out before: some leaves of the residuals are shown, and must fit.

With error feedback f a worker encodes  left = f before + delta,  sends  sent = decode(encode(left))  and keeps
after = left - sent  (`wire/feedback.py`). So  delta = sent + after - f before  number by number: whoever recomputes the lease and
is shown the same leaves of `before` and of `after`, both committed to when the delta was handed in, can compare those. And
what was sent must be the encoding of what there was to send: else anything could be sent, and taken back by what is kept.

A commitment is the root of a Merkle tree over the leaves, fp32 little-endian; a residual that is zero has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.audit.merkle import DIGEST_BYTES, MerkleTree, is_included, leaf_digest
from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader

LEAF_ELEMENTS: Final = 4096
"""A block of the sparse codecs, and whole blocks of all others: a leaf is encoded alone as within its chunk."""

MAX_SHOWN_LEAVES: Final = 16
"""Of one contribution: a challenge costs a worker half a megabyte of uplink at most."""

_WORSE: Final = 1e-3
"""Most that what was sent may leave out beyond what the codec does, as a share of what that leaves out, and of what it keeps. Who
adds in another order may keep the other of two numbers that are equal but for rounding, which is 1e-6 of it."""

_ROUNDING: Final = 1e-10
"""The same as a share of all that there was to send."""


class Misfit(Exception):
    """What was shown does not fit: a sentence."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """What a worker committed to when it handed a delta in."""

    before: bytes
    """Root of the residual that was added; empty where none was."""
    after: bytes
    """Root of what the encoding left."""

    @classmethod
    def from_hex(cls, before: str, after: str) -> Commitment:
        """As ledgers and records write it."""
        return cls(bytes.fromhex(before), bytes.fromhex(after))


@dataclass(frozen=True, slots=True)
class ShownLeaf:
    """One leaf of both residuals, as it came over the wire."""

    index: int
    before: bytes
    """fp32, little-endian; empty where none was added."""
    before_proof: tuple[bytes, ...]
    """See `MerkleTree.proof`."""
    after: bytes
    after_proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """Of a contribution."""

    num_elements: int
    codec: Codec
    feedback: float
    commitment: Commitment


def num_leaves(num_elements: int) -> int:
    """Of a residual."""
    return -(-num_elements // LEAF_ELEMENTS)


def leaf_of(vector: Tensor, index: int) -> Tensor:
    """Leaf `index` of fp32 `vector`, (n,)."""
    return vector[index * LEAF_ELEMENTS : (index + 1) * LEAF_ELEMENTS]


def leaf_digests(values: Tensor) -> list[bytes]:
    """Of the leaves of consecutive values, fp32 (m,), the first of which begins a leaf."""
    return [leaf_digest(leaf.numpy().data.cast("B")) for leaf in torch.split(values.contiguous(), LEAF_ELEMENTS)]


def commitment_tree(residual: Tensor) -> MerkleTree:
    """The tree over a residual, fp32 (n,), n > 0."""
    return MerkleTree(leaf_digests(residual))


def show(index: int, before: tuple[Tensor, MerkleTree] | None, after: tuple[Tensor, MerkleTree]) -> ShownLeaf:
    """What a worker answers when it is asked for leaf `index` of both residuals, each with its tree."""
    was, was_proof = (b"", ()) if before is None else _leaf_and_proof(index, *before)
    return ShownLeaf(index, was, was_proof, *_leaf_and_proof(index, *after))


def check_shown(leaves: Sequence[ShownLeaf], asked: Sequence[int], sent: VectorReader, terms: Terms) -> list[Tensor]:
    """The deltas that the leaves `asked` for imply, fp32 (m,) each.

    Raises `Misfit` unless all of them are what was committed to, finite, and `sent` is what the codec makes of them;
    `DecodeError` if what was sent is no vector.
    """
    if [leaf.index for leaf in leaves] != list(asked):
        raise Misfit(f"{len(leaves)} leaves are not those that were asked for")
    return [_check_leaf(leaf, sent_leaf, terms) for leaf, sent_leaf in zip(leaves, _sent(sent, asked), strict=True)]


def implied_delta(sent: Tensor, before: Tensor | None, after: Tensor, feedback: float) -> Tensor:
    """The delta that a worker says it had, fp32 (m,): the trained one but for the rounding of three additions."""
    left = sent + after
    return left if before is None else left.sub_(before, alpha=feedback)


def _leaf_and_proof(index: int, residual: Tensor, tree: MerkleTree) -> tuple[bytes, tuple[bytes, ...]]:
    return leaf_of(residual, index).numpy().tobytes(), tree.proof(index)


def _sent(sent: VectorReader, indices: Iterable[int]) -> list[Tensor]:
    """Leaves of what was sent; a chunk is decoded whole, once for all that follow each other in it."""
    found, chunk_index, chunk = list[Tensor](), -1, torch.empty(0)
    for index in indices:
        start = index * LEAF_ELEMENTS
        if start // CHUNK_ELEMENTS != chunk_index:
            chunk_index = start // CHUNK_ELEMENTS
            chunk = sent.chunk(chunk_index)
        begin = start % CHUNK_ELEMENTS
        found.append(chunk[begin : begin + LEAF_ELEMENTS])
    return found


def _check_leaf(leaf: ShownLeaf, sent: Tensor, terms: Terms) -> Tensor:
    roots = terms.commitment
    kept = _read(leaf.index, leaf.after, leaf.after_proof, roots.after, terms)
    if roots.before:
        was = _read(leaf.index, leaf.before, leaf.before_proof, roots.before, terms)
    elif leaf.before or leaf.before_proof:
        raise Misfit(f"leaf {leaf.index} shows a residual where none was added")
    else:
        was = None
    if not _is_encoding(sent, kept, terms.codec):
        raise Misfit(f"leaf {leaf.index} of what was sent is not what its codec makes of what there was to send")
    return implied_delta(sent, was, kept, terms.feedback)


def _read(index: int, data: bytes, proof: Sequence[bytes], root: bytes, terms: Terms) -> Tensor:
    """The leaf as fp32 (m,), which is the one that was committed to."""
    size = min(LEAF_ELEMENTS, terms.num_elements - index * LEAF_ELEMENTS)
    if len(data) != 4 * size or not is_included(
        data, index=index, num_chunks=num_leaves(terms.num_elements), proof=proof, root=root
    ):
        raise Misfit(f"leaf {index} is not the one that was committed to")
    values = torch.frombuffer(bytearray(data), dtype=torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise Misfit(f"leaf {index} has a number that is infinite or none")
    return values


def _is_encoding(sent: Tensor, kept: Tensor, codec: Codec) -> bool:
    """Whether `sent` is as good an encoding of sent + kept as `codec` makes, but for rounding."""
    coder, left = chunk_codec(codec), sent + kept
    if not bool(torch.isfinite(left).all()):
        return False
    again = coder.decode(memoryview(coder.encode(left)), len(left))
    energy, left_out, best = (float(part.double().square().sum()) for part in (left, left - sent, left - again))
    return left_out - best <= _WORSE * min(best, energy - best) + _ROUNDING * energy


def is_commitment(root: bytes) -> bool:
    """Whether it can be one."""
    return len(root) == DIGEST_BYTES
