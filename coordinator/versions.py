"""The history of published weights: makes the next version, and tells how to reach the newest from any other.

Owns the run's state vectors (published, master, EMA, outer moments). A version is durable in this order: update blob,
state file, ledger. A process that dies in between finds the ledger at the old version, loads the old state and makes
the same bits again, for the round's contributions are fixed and summed in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from coordinator.blobs import BlobStore, file_sha256
from coordinator.records import Contribution, Version, now_ms
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.errors import IntegrityError, storage_errors
from diffusion_at_home.outer.aggregation import weighted_mean
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.rpc.coordinator_pb2 import Blob
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector

KEPT_SNAPSHOTS: Final = 2
"""Newest snapshots that stay; a worker that is half-way through an older one asks again."""


class Versions:
    """All versions of a run; the newest one's state in memory."""

    def __init__(
        self, *, config: RunConfig, layout: Layout, blobs: BlobStore, folder: Path, history: Sequence[Version]
    ) -> None:
        """Load the newest version of `history`. Raises `IntegrityError` if its state is not what was published."""
        self.history = list(history)
        self.layout = layout
        self._config = config
        self._blobs = blobs
        self._folder = folder
        self._state = self._load()
        self._snapshots = [v.version for v in self.history if blobs.path(v.snapshot_sha256)]
        if not self._snapshots:
            raise IntegrityError(f"no snapshot of any version is left in {blobs.folder}: restore one from a backup")
        self._forget_old_snapshots()
        for stray in folder.glob("state-*"):
            if stray != state_file(folder, self.newest.version):
                stray.unlink()

    @property
    def newest(self) -> Version:
        """The newest published version."""
        return self.history[-1]

    @property
    def state_file(self) -> Path:
        """The newest version's state; replaced when the next is published."""
        return state_file(self._folder, self.newest.version)

    def make(self, contributions: Sequence[Contribution]) -> Version:
        """Aggregate `contributions` in the order given and step: the next version, durable but for the ledger.

        Blocks for as long as the arithmetic takes. When it raises (`StorageError`, `IntegrityError`), nothing has
        changed and the same call may be repeated.
        """
        try:
            return self._make(contributions)
        except BaseException:  # whatever it was, the state is half-stepped: load it again
            self._state = self._load()
            raise

    def _make(self, contributions: Sequence[Contribution]) -> Version:
        state = self._state
        staged = self._blobs.staging / f"update-{state.version + 1}"
        write_update(staged, state, self._config, contributions, self._blobs)
        update_sha256, update_bytes = self._add(staged)
        snapshot_sha256, snapshot_bytes = self._snapshot_if_due(update_bytes)
        state.save(state_file(self._folder, state.version))
        return Version(
            version=state.version,
            images=state.images,
            weights_digest=self.layout.weights_digest(state.published),
            update_sha256=update_sha256,
            update_bytes=update_bytes,
            snapshot_sha256=snapshot_sha256,
            snapshot_bytes=snapshot_bytes,
            published_at_ms=now_ms(),
        )

    def published(self, version: Version) -> None:
        """The ledger has `version`: it is the newest one now, and what only the last one needed goes."""
        assert version.version == self.newest.version + 1
        self.state_file.unlink(missing_ok=True)
        self.history.append(version)
        if version.snapshot_sha256:
            self._snapshots.append(version.version)
            self._forget_old_snapshots()

    def catch_up(self, held_version: int | None) -> list[Blob]:
        """The fewest bytes from `held_version` (None: nothing) to the newest: updates, or a snapshot and updates."""
        newest, base = self.newest.version, self._snapshots[-1]
        from_snapshot = [self._snapshot(self.history[base]), *self._updates(base)]
        if held_version is None or held_version > newest:
            return from_snapshot
        updates = self._updates(held_version)
        return min(updates, from_snapshot, key=lambda blobs: sum(blob.size_bytes for blob in blobs))

    # -- inside -------------------------------------------------------------------------------------------------

    def _load(self) -> RunState:
        path = state_file(self._folder, self.newest.version)
        state = RunState.load(path)
        if self.layout.weights_digest(state.published) != self.newest.weights_digest:
            raise IntegrityError(f"{path} is not the published version {self.newest.version}: restore it from a backup")
        return state

    def _add(self, staged: Path) -> tuple[str, int]:
        """Make the staged file a blob; returns its name and size."""
        sha256, size_bytes = file_sha256(staged), staged.stat().st_size
        self._blobs.add_file(staged, sha256)
        return sha256, size_bytes

    def _snapshot_if_due(self, update_bytes: int) -> tuple[str, int]:
        """A snapshot as soon as the updates since the last one weigh as much: nobody downloads more than twice one."""
        last = self._snapshots[-1]
        since = update_bytes + sum(v.update_bytes for v in self.history[last + 1 :])
        if since < self.history[last].snapshot_bytes:
            return "", 0
        staged = self._blobs.staging / f"snapshot-{self._state.version}"
        _write_snapshot(staged, self._state)
        return self._add(staged)

    def _forget_old_snapshots(self) -> None:
        kept = {self.history[version].snapshot_sha256 for version in self._snapshots[-KEPT_SNAPSHOTS:]}
        for version in self._snapshots[:-KEPT_SNAPSHOTS]:
            if (sha256 := self.history[version].snapshot_sha256) not in kept:  # two versions may be the same bits
                self._blobs.remove(sha256)
        del self._snapshots[:-KEPT_SNAPSHOTS]

    def _updates(self, after: int) -> list[Blob]:
        return [
            Blob(
                kind=Blob.KIND_UPDATE,
                version=v.version,
                sha256=v.update_sha256,
                size_bytes=v.update_bytes,
                weights_digest=v.weights_digest,
            )
            for v in self.history[after + 1 :]
        ]

    @staticmethod
    def _snapshot(version: Version) -> Blob:
        return Blob(
            kind=Blob.KIND_SNAPSHOT,
            version=version.version,
            sha256=version.snapshot_sha256,
            size_bytes=version.snapshot_bytes,
            weights_digest=version.weights_digest,
        )


def write_update(
    path: Path, state: RunState, config: RunConfig, contributions: Sequence[Contribution], blobs: BlobStore
) -> None:
    """Step `state` by `contributions` in the order given, and write the update that takes replicas there to `path`.

    The one way from a version to the next. When it raises, the state is neither and must be loaded again.
    """
    num_elements = len(state.published)
    with ExitStack() as stack:
        opened = [stack.enter_context(blobs.open(c.sha256)) for c in contributions]
        deltas = [VectorReader(data, config.codec.delta, num_elements) for data in opened]
        mean = weighted_mean(deltas, [c.weight for c in contributions])
        chunks = state.advance(config, mean, sum(c.images for c in contributions))
        with storage_errors(path), path.open("wb") as file:
            write_vector(file, config.codec.update, num_elements, chunks)


def state_file(folder: Path, version: int) -> Path:
    """Where the state of `version` lies."""
    return folder / f"state-{version}.safetensors"


def first_version(state: RunState, *, layout: Layout, blobs: BlobStore, folder: Path) -> Version:
    """Store version 0 of a run: its snapshot and its state."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = blobs.staging / "snapshot-0"
    _write_snapshot(staged, state)
    sha256, size_bytes = file_sha256(staged), staged.stat().st_size
    blobs.add_file(staged, sha256)
    state.save(state_file(folder, 0))
    return Version(0, 0, layout.weights_digest(state.published), "", 0, sha256, size_bytes, now_ms())


def _write_snapshot(path: Path, state: RunState) -> None:
    with storage_errors(path), path.open("wb") as file:
        write_vector(file, Codec.FP32, len(state.published), encode_chunks(Codec.FP32, state.published))
