"""Trained but not yet received: encoded contributions on disk, so that a worker that dies while sending can go on.

A contribution is complete when its .json is there; it leaves with its receipt, or with the refusal that ends its lease.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from diffusion_at_home.audit.residual import ShownLeaf
from diffusion_at_home.config.run import Codec
from diffusion_at_home.config.toml import Section
from diffusion_at_home.errors import LeaseLost, storage_errors
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.refusals import short_name
from diffusion_at_home.rpc.coordinator_pb2 import Refusal
from diffusion_at_home.wire.vector import write_vector
from worker.atomic_file import write_atomically
from worker.grant import LeaseId
from worker.residual import Residual
from worker.trainer import Trained

WRONG_RESIDUAL: Final = short_name(Refusal.REFUSAL_WRONG_RESIDUAL)


class Contribution(Section):
    """What a Submit announces."""

    lease_id: Annotated[LeaseId, Field(ge=0, lt=2**64)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the encoded vector (hex)."""
    size_bytes: Annotated[int, Field(gt=0, lt=2**64)]
    images: Annotated[int, Field(gt=0, lt=2**64)]
    """Images trained: a prefix of the lease's ranges."""
    train_ms: Annotated[int, Field(ge=0, lt=2**64)]
    """Time spent training (milliseconds)."""
    mean_loss: float
    """Mean training loss over those images."""
    lease_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the lease's terms (`diffusion_at_home.lease_terms`), which are signed with it."""
    weights: KeptWeights
    """How they were kept while it was trained."""
    residual_before: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """What is committed to of the residual that was added (hex), empty if none was: see `diffusion_at_home.audit.residual`."""
    residual_after: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The same of what the encoding left; empty without error feedback."""


class Outbox:
    """The contributions of one run that wait for their receipt."""

    def __init__(self, folder: Path, residual: Residual) -> None:
        """`residual` is added to what is put in, and is told what became of that."""
        self._folder = folder
        self._residual = residual
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, lease_id: LeaseId, lease_sha256: str, trained: Trained, codec: Codec) -> Contribution:
        """Encode what a lease came to; with error feedback its delta is then what that left out. Raises `StorageError`.

        `lease_sha256` is of the lease's terms.
        """
        path = self._vector(lease_id)
        with storage_errors(self._folder), path.open("w+b") as file:
            write_vector(file, codec, len(trained.delta), self._residual.encode(lease_id, trained.delta, codec))
            size_bytes = file.tell()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        before, after = self._residual.commitment(lease_id)
        contribution = Contribution(
            lease_id=lease_id,
            sha256=sha256,
            size_bytes=size_bytes,
            images=trained.images,
            train_ms=round(trained.seconds * 1000),
            mean_loss=trained.mean_loss,
            lease_sha256=lease_sha256,
            weights=trained.weights,
            residual_before=before,
            residual_after=after,
        )
        write_atomically(self._facts(lease_id), contribution.model_dump_json(indent=1).encode())
        return contribution

    def vector(self, contribution: Contribution) -> Path:
        """The encoded delta."""
        return self._vector(contribution.lease_id)

    def show(self, contribution: Contribution, indices: Sequence[int]) -> list[ShownLeaf]:
        """Leaves of what was added to it and of what it left out. Raises `LeaseLost` if they are gone."""
        return self._residual.show(contribution.lease_id, indices)

    def received(self, contribution: Contribution) -> None:
        """It has its receipt, and is forgotten."""
        self._residual.received(contribution.lease_id)
        self._remove(contribution)

    def refused(self, contribution: Contribution, why: LeaseLost) -> None:
        """It will never count, and is forgotten; its data goes to others."""
        self._residual.refused(contribution.lease_id, is_wrong=why.reason == WRONG_RESIDUAL)
        self._remove(contribution)

    def recover(self) -> list[Contribution]:
        """What an earlier process left to send; what it left incomplete is deleted."""
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        complete = [c for c in found if c is not None and self.vector(c).exists()]
        kept = {path for c in complete for path in (self.vector(c), self._facts(c.lease_id))}
        for path in self._folder.iterdir():
            if path not in kept:
                path.unlink()
        return complete

    def _remove(self, contribution: Contribution) -> None:
        """The facts first, so that what is left of it is never taken for complete."""
        self._facts(contribution.lease_id).unlink(missing_ok=True)
        self._vector(contribution.lease_id).unlink(missing_ok=True)

    def _read(self, path: Path) -> Contribution | None:
        try:
            found = Contribution.model_validate_json(path.read_bytes())
        except ValidationError:
            return None
        return found if path == self._facts(found.lease_id) else None

    def _vector(self, lease_id: LeaseId) -> Path:
        return self._folder / f"lease-{lease_id}.dahv"

    def _facts(self, lease_id: LeaseId) -> Path:
        return self._folder / f"lease-{lease_id}.json"
