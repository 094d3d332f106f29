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
    """Over at least one chunk; keeps 32 bytes for each."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._leaves = [leaf_digest(chunk) for chunk in chunks]
        assert self._leaves, "a tree has at least one leaf"

    def __len__(self) -> int:
        return len(self._leaves)

    @property
    def root(self) -> bytes:
        """What commits to all chunks and to their order."""
        return _root(self._leaves)

    def proof(self, index: int) -> tuple[bytes, ...]:
        """The siblings on the way from leaf `index` to the root, the lowest first."""
        leaves, siblings = self._leaves, list[bytes]()
        while len(leaves) > 1:
            split = _split(len(leaves))
            left, right = leaves[:split], leaves[split:]
            if index < split:
                leaves, sibling = left, right
            else:
                leaves, sibling, index = right, left, index - split
            siblings.append(_root(sibling))
        return tuple(reversed(siblings))


def leaf_digest(chunk: bytes | memoryview) -> bytes:
    """Of one chunk."""
    return hashlib.sha256(_LEAF + chunk).digest()


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


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return _node(_root(leaves[:split]), _root(leaves[split:]))


def _split(num_leaves: int) -> int:
    return 1 << ((num_leaves - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
