"""What encoding left out of this worker's deltas so far: added to the next one, kept over an orderly restart.

It belongs to the versions that the deltas started from. Once those lie too far back, or after a process that died and could not
save it, it is dropped: the run loses what one worker still had to say. What a delta left is *pending* until that delta has its
receipt; until then both residuals can be shown, and are, leaf by leaf (`diffusion_at_home.audit.residual`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion_at_home import events
from diffusion_at_home.audit.merkle import MerkleTree
from diffusion_at_home.audit.residual import ShownLeaf, commitment_tree, leaf_digests, show
from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.errors import LeaseLost, RetryCall, StorageError, storage_errors
from diffusion_at_home.wire.feedback import encode_left
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.parallel import in_order
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, encode_chunks
from worker.grant import LeaseId

_KEPT: Final = "residual"
_PENDING: Final = "pending"

_MOST_VERSIONS: Final = 16
"""Between the last delta's base and the next one's; what was left out longer ago points from weights that are gone."""

_log = events.logger("worker")


@dataclass(frozen=True, slots=True)
class _Left:
    """What encodings left."""

    values: Tensor
    """fp32 (n,) in the run's layout."""
    tree: MerkleTree

    @property
    def root(self) -> str:
        """What it is committed to by, in hex."""
        return self.tree.root.hex()

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Hashes them."""
        return cls(values, commitment_tree(values))


@dataclass(frozen=True, slots=True)
class _Pending:
    """What one contribution left, which has no receipt yet."""

    lease_id: LeaseId
    left: _Left


class Residual:
    """Of one run, or nothing while there is none. A worker has one contribution under way at a time."""

    def __init__(self, path: Path, section: CodecSection, layout: Layout) -> None:
        """Take over what the last process saved at `path`; the file goes, so that it is never added twice."""
        self._path = path
        self._section = section
        self._layout = layout
        self._version = 0  # base of the last delta
        self._left: _Left | None = None
        self._pending: _Pending | None = None
        if section.feedback:
            self._load()
        path.unlink(missing_ok=True)

    def encode(self, lease_id: LeaseId, delta: Tensor, codec: Codec) -> Iterator[bytes]:
        """The chunks of `delta`, with what earlier ones left out if the run wants that: then `delta` becomes what this leaves.

        After the last chunk that is pending, and stays in the memory of `delta` until `received` or `refused`.
        """
        if not self._section.feedback:
            yield from encode_chunks(codec, delta)
            return
        chunks, leaves = torch.split(delta, CHUNK_ELEMENTS), list[bytes]()
        before = [] if self._left is None else torch.split(self._left.values, CHUNK_ELEMENTS)

        def encode(index: int) -> tuple[bytes, list[bytes]]:
            left = chunks[index]
            if before:  # in this order, for its rounding is part of what is committed to
                left.copy_(before[index].mul(self._section.feedback).add_(left))
            return encode_left(codec, left), leaf_digests(left)

        for encoded, digests in in_order(encode, len(chunks)):
            leaves += digests
            yield encoded
        self._pending = _Pending(lease_id, _Left(delta, MerkleTree(leaves)))

    def commitment(self, lease_id: LeaseId) -> tuple[str, str]:
        """Roots (hex) of what was added to that lease's delta, and of what it left; empty where there is nothing."""
        if self._pending is None or self._pending.lease_id != lease_id:
            return "", ""
        return "" if self._left is None else self._left.root, self._pending.left.root

    def show(self, lease_id: LeaseId, indices: Sequence[int]) -> list[ShownLeaf]:
        """Leaves of both. Raises `LeaseLost` where they went with the process that encoded that delta, `RetryCall` for none."""
        pending, before = self._pending, self._left
        if pending is None or pending.lease_id != lease_id:
            raise LeaseLost("what its encoding left out was lost with the last process", "residual_lost")
        if any(index >= len(pending.left.tree) for index in indices):
            raise RetryCall("the coordinator asks for parts that no residual of this run has")
        was = None if before is None else (before.values, before.tree)
        return [show(index, was, (pending.left.values, pending.left.tree)) for index in indices]

    def received(self, lease_id: LeaseId) -> None:
        """That lease's contribution has its receipt: what it left is what the next delta gets."""
        pending, self._pending = self._pending, None
        if not self._section.feedback:
            return
        if pending is None or pending.lease_id != lease_id:
            self._drop("it belongs to a contribution of another process")
        elif self._left is None:
            self._left = _Left(pending.left.values.clone(), pending.left.tree)  # the trainer uses that memory again
        else:
            self._left = _Left(self._left.values.copy_(pending.left.values), pending.left.tree)

    def refused(self, lease_id: LeaseId, *, is_wrong: bool) -> None:
        """That contribution will never count: it is as if it had not been; all is dropped that the run calls wrong."""
        if self._pending is not None and self._pending.lease_id == lease_id:
            self._pending = None
        if is_wrong:
            self._drop("the run does not take it")

    def starts_from(self, version: int) -> None:
        """The next delta starts from `version`: forget what was left out too long ago."""
        if version - self._version > _MOST_VERSIONS:
            self._drop(f"it is of version {self._version}, and the next delta of {version}")
        self._version = version

    def close(self) -> None:
        """Save it for the next process; a disk that is full only loses it."""
        left, pending = self._left, self._pending
        self._left = self._pending = None
        values: dict[str, Tensor] = {}
        facts = {"version": str(self._version), "layout": self._layout.digest, "lease": "0"}
        if left is not None:
            values[_KEPT], facts[_KEPT] = left.values, left.root
        if pending is not None:
            values[_PENDING], facts[_PENDING] = pending.left.values, pending.left.root
            facts["lease"] = str(pending.lease_id)
        if not values:
            return
        try:
            with storage_errors(self._path.parent):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                save_file(values, self._path, metadata=facts)
        except StorageError as error:
            self._path.unlink(missing_ok=True)
            _log.warning("residual_dropped", reason=str(error))

    def _drop(self, reason: str) -> None:
        if self._left is not None:
            _log.info("residual_dropped", reason=reason)
        self._left = None

    def _load(self) -> None:
        """All of it or nothing: what is pending was encoded with the rest."""
        try:
            with safe_open(self._path, framework="pt") as file:
                facts, size = file.metadata(), self._layout.num_elements
                if facts["layout"] != self._layout.digest:
                    raise ValueError("a residual of another model")
                left, pending = (
                    _sound(file.get_tensor(name), facts[name], size) if name in facts else None
                    for name in (_KEPT, _PENDING)
                )
                version, lease = int(facts["version"]), LeaseId(int(facts["lease"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return
        self._version, self._left = version, left
        self._pending = None if pending is None else _Pending(lease, pending)


def _sound(values: Tensor, root: str, num_elements: int) -> _Left:
    """Raises `ValueError` unless it is what was saved: one flipped bit may be an infinity."""
    if values.shape != (num_elements,) or values.dtype != torch.float32:
        raise ValueError("a residual of another model")
    left = _Left.of(values)
    if left.root != root:
        raise ValueError("a residual that is damaged")
    return left
