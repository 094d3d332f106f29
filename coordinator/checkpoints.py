"""What the run has published: the listing, and which files of which checkpoint may be served."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Sequence
from pathlib import Path

from coordinator.best import best_of
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Checkpoint, Judged
from coordinator.signatures import Signatures
from diffusion_at_home.checkpoint.listing import CheckpointListing, ListedCheckpoint, ListedJudgement
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, load_manifest
from diffusion_at_home.checkpoint.rotation import Rotation
from diffusion_at_home.runspec import RunSpec


class Checkpoints:
    """Only checkpoints in the ledger, only files in their manifests, only signatures that hold."""

    def __init__(self, *, folder: Path, spec: RunSpec, ledger: LedgerThread, signatures: Signatures) -> None:
        self._folder = folder
        self._spec = spec
        self._ledger = ledger
        self._signatures = signatures
        self._files: dict[str, dict[str, str]] = {}
        """By checkpoint and path, the sha256; the manifest's own is empty."""

    async def listing(self) -> CheckpointListing:
        """All of them, oldest first."""
        found = await self._ledger.run(Ledger.checkpoints)
        best = best_of(found)
        rotations, signed = await asyncio.to_thread(self._signed, found)
        judged = {judgement.checkpoint: judgement for judgement in await self._ledger.run(Ledger.judged)}
        return CheckpointListing(
            run_id=self._spec.run_id,
            run=self._spec.config.run.name,
            checkpoints=tuple(
                _listed(checkpoint, judged.get(checkpoint.name), signed=checkpoint.name in signed)
                for checkpoint in found
            ),
            latest=found[-1].name if found else None,
            best=best.name if best else None,
            release_key=self._spec.config.release.public_key or None,
            rotations=rotations,
        )

    def forget(self, name: str) -> None:
        """The ledger no longer offers checkpoint `name`: its files are not served any more."""
        self._files.pop(name, None)
        self._signatures.forget(name)

    async def signature(self, name: str) -> bytes | None:
        """The signature of checkpoint `name`, or None if there is none that may be served."""
        for checkpoint in await self._ledger.run(Ledger.checkpoints):
            if checkpoint.name == name:
                return await asyncio.to_thread(self._signatures.of, checkpoint)
        return None

    async def manifest(self, name: str) -> CheckpointManifest | None:
        """What checkpoint `name` is made of, or None if there is none that is offered. Raises `IntegrityError`."""
        if not any(checkpoint.name == name for checkpoint in await self._ledger.run(Ledger.checkpoints)):
            return None
        return await asyncio.to_thread(load_manifest, self._folder / name)

    def _signed(self, found: Sequence[Checkpoint]) -> tuple[tuple[Rotation, ...], set[str]]:
        signed = {checkpoint.name for checkpoint in found if self._signatures.of(checkpoint) is not None}
        return self._signatures.rotations(), signed

    async def file(self, name: str, path: str) -> Path | None:
        """The file `path` of checkpoint `name`, or None if there is no such published file."""
        if name not in self._files:
            found = await self._ledger.run(Ledger.checkpoints)
            if not any(checkpoint.name == name for checkpoint in found):
                return None
            files = load_manifest(self._folder / name).files
            self._files[name] = {MANIFEST_NAME: "", **{path: entry.sha256 for path, entry in files.items()}}
        return self._folder / name / path if path in self._files[name] else None

    def sha256(self, name: str, path: str) -> str:
        """Of a file that `file` has found; empty of a manifest."""
        return self._files.get(name, {}).get(path, "")


def _listed(checkpoint: Checkpoint, judged: Judged | None, *, signed: bool) -> ListedCheckpoint:
    created = datetime.datetime.fromtimestamp(checkpoint.created_at_ms / 1000, datetime.UTC)
    return ListedCheckpoint(
        name=checkpoint.name,
        version=checkpoint.version,
        images=checkpoint.images,
        held_out_loss=checkpoint.held_out_loss if math.isfinite(checkpoint.held_out_loss) else None,
        default_weights=checkpoint.default_weights.value,
        size_bytes=checkpoint.size_bytes,
        created=created.isoformat(timespec="seconds"),
        manifest_sha256=checkpoint.manifest_sha256,
        signed=signed,
        judged=None if judged is None else _figures(judged),
    )


def _figures(judged: Judged) -> ListedJudgement:
    return ListedJudgement(
        frechet=judged.frechet,
        kernel=judged.kernel,
        retrieval=judged.retrieval,
        unseen=judged.unseen,
        encoder_sha256=judged.encoder_sha256,
    )
