"""A commitment to many chunks of which one can be shown: a Merkle tree, hashed as in RFC 9162, section 2.1.

A leaf is sha256(0x00 || chunk), a node sha256(0x01 || left || right), so that no chunk can be passed off as a node; of n > 1
leaves the left subtree has the largest power of two below n. Whoever checks a proof knows n and the index beforehand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

DIGEST_BYTES: Final = 32

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


class MerkleTree:
    """Over at least one chunk; keeps 64 bytes for each."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        """`leaves` are the chunks' `leaf_digest`s, in order."""
        self._levels = _levels(leaves)

    @classmethod
    def of(cls, chunks: Iterable[bytes | memoryview]) -> MerkleTree:
        """Over `chunks`."""
        return cls([leaf_digest(chunk) for chunk in chunks])

    def __len__(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """What commits to all chunks and to their order."""
        return self._levels[-1][0]

    def proof(self, index: int) -> tuple[bytes, ...]:
        """The siblings on the way from leaf `index` to the root, the lowest first."""
        siblings = list[bytes]()
        for level in self._levels[:-1]:
            if (sibling := index ^ 1) < len(level):  # the last one of an odd number goes up as it is
                siblings.append(level[sibling])
            index //= 2
        return tuple(siblings)


def leaf_digest(chunk: bytes | memoryview) -> bytes:
    """Of one chunk."""
    digest = hashlib.sha256(_LEAF)
    digest.update(chunk)
    return digest.digest()


def is_included(chunk: bytes | memoryview, *, index: int, num_chunks: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `chunk` is chunk `index` of the `num_chunks` that `root` commits to. `proof` may be anybody's word."""
    if not 0 <= index < num_chunks or any(len(sibling) != DIGEST_BYTES for sibling in proof):
        return False
    turns = _turns(index, num_chunks)
    if len(proof) != len(turns):
        return False
    digest = leaf_digest(chunk)
    for is_right, sibling in zip(reversed(turns), proof, strict=True):
        digest = _node(sibling, digest) if is_right else _node(digest, sibling)
    return digest == root


def _turns(index: int, num_leaves: int) -> list[bool]:
    """From the root down to leaf `index`: whether it goes right."""
    turns = list[bool]()
    while num_leaves > 1:
        split = _split(num_leaves)
        is_right = index >= split
        turns.append(is_right)
        index, num_leaves = (index - split, num_leaves - split) if is_right else (index, split)
    return turns


def _levels(leaves: Sequence[bytes]) -> list[Sequence[bytes]]:
    """From the leaves to the root: pairs from the left, which comes to the same as splitting off powers of two."""
    assert leaves, "a tree has at least one leaf"
    levels = [leaves]
    while len(level := levels[-1]) > 1:
        pairs = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        levels.append([*pairs, *level[len(level) & ~1 :]])
    return levels


def _split(num_leaves: int) -> int:
    return 1 << ((num_leaves - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
