"""Shown leaves as they travel, and as the blob that a lease's public record names: protobuf, bounded before it is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from diffusion_at_home.audit.merkle import DIGEST_BYTES
from diffusion_at_home.audit.residual import LEAF_ELEMENTS, MAX_SHOWN_LEAVES, Misfit, ShownLeaf
from diffusion_at_home.rpc import coordinator_pb2 as pb

_MOST_PROOF: Final = 64
"""Siblings: of more leaves than there are bytes on earth."""

MAX_LEAF_BYTES: Final = 2 * (4 * LEAF_ELEMENTS + _MOST_PROOF * (DIGEST_BYTES + 8)) + 64
"""Of one leaf's message."""

MAX_SHOWN_BYTES: Final = MAX_SHOWN_LEAVES * (MAX_LEAF_BYTES + 8)
"""Of the blob."""


def leaf_message(leaf: ShownLeaf) -> pb.ShownLeaf:
    """As it is sent."""
    return pb.ShownLeaf(
        index=leaf.index,
        before=leaf.before,
        before_proof=leaf.before_proof,
        after=leaf.after,
        after_proof=leaf.after_proof,
    )


def read_leaf(message: pb.ShownLeaf) -> ShownLeaf:
    """As it came. Raises `Misfit` for one that is longer than any."""
    if message.ByteSize() > MAX_LEAF_BYTES:
        raise Misfit(f"a leaf has more than {MAX_LEAF_BYTES} bytes")
    return ShownLeaf(
        message.index, message.before, tuple(message.before_proof), message.after, tuple(message.after_proof)
    )


def write_shown(leaves: Iterable[ShownLeaf]) -> bytes:
    """The blob."""
    return pb.ShownResidual(leaves=[leaf_message(leaf) for leaf in leaves]).SerializeToString(deterministic=True)


def read_shown(data: bytes | memoryview) -> list[ShownLeaf]:
    """The leaves in a blob. Raises `Misfit` if it is none."""
    if len(data) > MAX_SHOWN_BYTES:
        raise Misfit(f"more than {MAX_SHOWN_BYTES} bytes are said to have been shown")
    try:
        message = pb.ShownResidual.FromString(bytes(data))
    except DecodeError:
        raise Misfit("what was shown does not parse") from None
    return [read_leaf(leaf) for leaf in message.leaves]
