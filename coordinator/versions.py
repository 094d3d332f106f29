"""The history of published weights: makes the next version, and tells how to reach the newest from any other.

Owns the run's state vectors (published, master, EMA, outer moments). A version is published when its update is a blob and the
ledger names it; nobody waits for more. The state is saved, and a snapshot written, now and then and beside the next round: a
process that dies loads the last saved state and steps it again by the contributions that the ledger names, to the same bits,
for they are fixed and summed in a fixed order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from coordinator.blobs import BlobStore, file_sha256
from coordinator.records import Contribution, Version, now_ms
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.errors import IntegrityError, storage_errors
from diffusion_at_home.outer.aggregation import WeightedMean
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.rpc.coordinator_pb2 import Blob
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector

KEPT_SNAPSHOTS: Final = 2
"""Newest snapshots that stay; a worker that is half-way through an older one asks again."""

_MOST_TO_REPEAT_SECONDS: Final = 2.0
"""Of arithmetic that a restart has to do again; more than that, and the state is saved."""

_SAVING_SHARE: Final = 0.05
"""Of the time, spent on saving at most: rounds that follow each other at once must not wait for the disk."""


class Versions:
    """All versions of a run; the newest one's state in memory."""

    def __init__(
        self,
        *,
        config: RunConfig,
        layout: Layout,
        blobs: BlobStore,
        folder: Path,
        history: Sequence[Version],
        contributions_of: Callable[[int], Sequence[Contribution]],
    ) -> None:
        """Load the newest version of `history`; `contributions_of` tells what made one.

        Raises `IntegrityError` if it is not what was published.
        """
        self.history = list(history)
        self.layout = layout
        self._config = config
        self._blobs = blobs
        self._folder = folder
        self._saved = self._newest_saved()
        self._unsaved = {v.version: contributions_of(v.version) for v in self.history[self._saved + 1 :]}
        self._unsaved_seconds = 0.0
        self._save_seconds, self._saved_at = 0.0, -math.inf
        self._state = self._load()
        self._snapshots = [v.version for v in self.history if blobs.path(v.snapshot_sha256)]
        if not self._snapshots:
            raise IntegrityError(f"no snapshot of any version is left in {blobs.folder}: restore one from a backup")
        self._forget_old_snapshots()
        self._forget_old_states()

    @property
    def newest(self) -> Version:
        """The newest published version."""
        return self.history[-1]

    @property
    def state_file(self) -> Path:
        """The newest version's state, if it was saved; replaced when a later one is."""
        return state_file(self._folder, self._saved)

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
        started, state = time.monotonic(), self._state
        staged = self._blobs.staging / f"update-{state.version + 1}"
        write_update(staged, state, self._config, contributions, self._blobs)
        update_sha256, update_bytes = self._add(staged)
        self._unsaved_seconds += time.monotonic() - started
        return Version(
            version=state.version,
            images=state.images,
            weights_digest=self.layout.weights_digest(state.published),
            update_sha256=update_sha256,
            update_bytes=update_bytes,
            snapshot_sha256="",
            snapshot_bytes=0,
            published_at_ms=now_ms(),
        )

    def published(self, version: Version, contributions: Sequence[Contribution]) -> None:
        """The ledger has `version`, which `contributions` made: it is the newest one now."""
        assert version.version == self.newest.version + 1
        self.history.append(version)
        self._unsaved[version.version] = contributions

    def save(self) -> None:
        """Save the newest version's state, unless it is. Blocks. Raises `StorageError`."""
        if self._saved == self.newest.version:
            return
        started = time.monotonic()
        self._state.save(state_file(self._folder, self.newest.version))
        self._saved, self._saved_at = self.newest.version, time.monotonic()
        self._save_seconds = self._saved_at - started
        self._unsaved, self._unsaved_seconds = {}, 0.0
        self._forget_old_states()

    def settle(self) -> Version | None:
        """What a new version leaves to do once it is published: its state, a snapshot, as far as they are due.

        Blocks. Returns the version with its snapshot if it got one, which is offered once the ledger knows it
        (`snapshot_stored`). Raises `StorageError`; then the same call may be repeated.
        """
        affordable = time.monotonic() - self._saved_at > self._save_seconds / _SAVING_SHARE
        if self._unsaved_seconds > _MOST_TO_REPEAT_SECONDS and affordable:
            self.save()
        last = self._snapshots[-1]
        # As soon as the updates since the last one weigh as much: nobody downloads more than twice a snapshot.
        if sum(v.update_bytes for v in self.history[last + 1 :]) < self.history[last].snapshot_bytes:
            return None
        staged = self._blobs.staging / f"snapshot-{self._state.version}"
        _write_snapshot(staged, self._state)
        sha256, size_bytes = self._add(staged)
        return replace(self.newest, snapshot_sha256=sha256, snapshot_bytes=size_bytes)

    def snapshot_stored(self, version: Version) -> None:
        """The ledger knows the snapshot of `version`: joiners get it, and one that is too old goes."""
        self.history[version.version] = version
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

    def _newest_saved(self) -> int:
        versions = [v.version for v in self.history if state_file(self._folder, v.version).is_file()]
        if not versions:
            raise IntegrityError(f"no state of any version is left in {self._folder}: restore one from a backup")
        return max(versions)

    def _load(self) -> RunState:
        """The newest version: the last saved one, stepped again by what made those after it."""
        path = state_file(self._folder, self._saved)
        state = RunState.load(path)
        self._check(state, self._saved, f"{path} is not the published version {self._saved}")
        staged = self._blobs.staging / "update-again"
        for version, contributions in self._unsaved.items():
            write_update(staged, state, self._config, contributions, self._blobs)
            self._check(state, version, f"its contributions do not make the published version {version}")
        staged.unlink(missing_ok=True)
        return state

    def _check(self, state: RunState, version: int, otherwise: str) -> None:
        if self.layout.weights_digest(state.published) != self.history[version].weights_digest:
            raise IntegrityError(f"{otherwise}: restore it from a backup")

    def _add(self, staged: Path) -> tuple[str, int]:
        """Make the staged file a blob; returns its name and size."""
        sha256, size_bytes = file_sha256(staged), staged.stat().st_size
        self._blobs.add_file(staged, sha256)
        return sha256, size_bytes

    def _forget_old_states(self) -> None:
        for path in self._folder.glob("state-*"):
            if path != self.state_file:
                path.unlink()

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
        mean = WeightedMean(deltas, [c.weight for c in contributions])
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
