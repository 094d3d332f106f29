"""The history of published weights: makes the next version, and tells how to reach the newest from any other.

Owns the run's state vectors (published, master, EMA, outer moments). A version is published when its update is a blob and the
ledger names it; nobody waits for more. The state is saved, and a snapshot written, now and then and beside the next round: a
process that dies loads the last saved state and steps it again by the contributions that the ledger names, to the same bits,
for they are fixed and summed in a fixed order. If that state is damaged, an older one is stepped, or the seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from coordinator.blobs import BlobStore, file_sha256
from coordinator.lineage import lineage
from coordinator.records import Counted, Version, now_ms
from coordinator.refused import Refused
from coordinator.states import Source, States
from diffusion_at_home import events
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.errors import IntegrityError, StorageError, storage_errors
from diffusion_at_home.outer.aggregation import Weighed, aggregate
from diffusion_at_home.outer.state import RunState, state_digest
from diffusion_at_home.rpc.coordinator_pb2 import Blob, Refusal
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector

KEPT_SNAPSHOTS: Final = 2
"""Newest snapshots that stay; a worker that is half-way through an older one asks again."""

_MOST_TO_REPEAT_SECONDS: Final = 2.0
"""Of arithmetic that a restart has to do again; more than that, and the state is saved."""

_SAVING_SHARE: Final = 0.05
"""Of the time, spent on saving at most: rounds that follow each other at once must not wait for the disk."""


_MANY_STEPS: Final = 20
"""Versions to step again at a start after which it says how far it is."""

_SOON: Final = timedelta(seconds=1)

_log = events.logger("coordinator")


@dataclass(frozen=True, slots=True)
class Loaded:
    """How the newest version's state was had at a start."""

    source: str
    """The file's name, or "the seed"."""
    stepped_again: int
    """Versions from there to the newest one."""
    damaged: tuple[str, ...]
    """What is wrong with the later sources, a sentence each."""


class Versions:
    """All versions of a run; the newest one's state in memory."""

    def __init__(
        self,
        *,
        config: RunConfig,
        layout: Layout,
        blobs: BlobStore,
        states: States,
        history: Sequence[Version],
        counted_of: Callable[[int], Sequence[Counted]],
    ) -> None:
        """Load the newest version of `history`; `counted_of` tells what made one.

        Raises `IntegrityError` if it cannot be had again.
        """
        self.history = list(history)
        self.layout = layout
        self._config = config
        self._blobs = blobs
        self._states = states
        self._counted_of = counted_of
        self._unsaved_seconds = 0.0
        self._save_seconds, self._saved_at = 0.0, -math.inf
        self._saved = -1
        self.loaded = Loaded("", 0, ())
        """Of the last load."""
        self._state: RunState | None = None
        self._load()
        self._snapshots = [v.version for v in self.history if blobs.path(v.snapshot_sha256)]
        self._updates_gone = max(
            (v.version for v in self.history[1:] if v.back_to is None and not blobs.path(v.update_sha256)), default=0
        )
        self._went_back = max((v.version for v in self.history if v.back_to is not None), default=0)
        self._undone = self._left_behind()
        self._forget_old_snapshots()

    @property
    def newest(self) -> Version:
        """The newest published version."""
        return self.history[-1]

    @property
    def saved(self) -> int:
        """The version of the newest saved state."""
        return self._saved

    @property
    def state_file(self) -> Path:
        """The newest saved state; goes some time after a later one is saved."""
        return self._states.file(self._saved)

    @property
    def updates_since(self) -> int:
        """From this version on, updates lead to the newest; 0 if none was ever deleted and the run never went back."""
        return max(self._updates_gone, self._went_back)

    @property
    def updates_gone(self) -> int:
        """All updates that come after this version's are there; 0 if none was ever deleted."""
        return self._updates_gone

    @property
    def snapshots(self) -> list[int]:
        """The versions that joiners may start from, oldest first."""
        return list(self._snapshots)

    def make(self, counted: Sequence[Counted]) -> Version:
        """Aggregate what `counted` in the order given and step: the next version, durable but for the ledger.

        Blocks for as long as the arithmetic takes. When it raises (`StorageError`, `IntegrityError`), nothing has
        changed and the same call may be repeated.
        """
        started, state = time.monotonic(), self._state or self._load()
        staged = self._blobs.staging / f"update-{self.newest.version + 1}"
        self._state = None  # half-stepped from here on: whatever happens, it must not be taken for a version
        try:
            write_update(staged, state, self._config, counted, self._blobs)
        except DecodeError as error:
            raise IntegrityError(_undecodable(self.newest.version + 1, error)) from None
        update_sha256, update_bytes = self._add(staged)
        self._state = state
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

    def why_not_back(self, to: int) -> str:
        """Why the run cannot go back to version `to`; empty if it can."""
        if not 0 <= to < self.newest.version:
            return f"version {to} is not before the newest one, {self.newest.version}"
        if self.is_undone(to):
            return f"version {to} was left behind by a rollback"
        if to < self._states.anchor_version:
            return f"nothing is kept from which a version before {self._states.anchor_version} could be computed again"
        return ""

    def go_back(self, to: int, action_id: int) -> Version:
        """The next version, which is version `to` again; with its snapshot, durable but for the ledger.

        Blocks for as long as it takes to compute that one again. When it raises (`StorageError`, `IntegrityError`), nothing
        has changed and the same call may be repeated.
        """
        number = self.newest.version + 1
        self._state = None
        state, _, _ = self._state_of(to)
        state.version = number
        staged = self._blobs.staging / f"snapshot-{number}"
        _write_snapshot(staged, state)
        sha256, size_bytes = self._add(staged)
        self._state, self._unsaved_seconds = state, math.inf
        return Version(
            version=number,
            images=state.images,
            weights_digest=self.layout.weights_digest(state.published),
            update_sha256="",
            update_bytes=0,
            snapshot_sha256=sha256,
            snapshot_bytes=size_bytes,
            published_at_ms=now_ms(),
            back_to=to,
            action_id=action_id,
        )

    def is_undone(self, version: int) -> bool:
        """Whether the run has gone back to a version before it."""
        return version in self._undone

    def published(self, version: Version) -> None:
        """The ledger has `version`: it is the newest one now."""
        assert version.version == self.newest.version + 1
        self.history.append(version)
        if version.back_to is not None:
            self._went_back = version.version
            self._undone = self._left_behind()
            self.snapshot_stored(version)

    def save(self) -> None:
        """Save the newest version's state, unless it is. Blocks. Raises `StorageError`."""
        if self._saved == self.newest.version:
            return
        started, state = time.monotonic(), self._state or self._load()
        self._states.save(state)
        self._saved, self._saved_at = state.version, time.monotonic()
        self._save_seconds = self._saved_at - started
        self._unsaved_seconds = 0.0
        self._forget_undone_states()

    def saved_is_sound(self) -> bool:
        """Whether the newest saved state is what it was. Blocks, as all of it is read."""
        try:
            state_digest(self.state_file)
        except IntegrityError:
            return False
        return True

    def replace_saved(self, path: Path) -> None:
        """Set the saved state in `path` aside, and save the newest version's.

        Blocks. Raises `StorageError`; then the same call may be repeated.
        """
        if path.is_file():  # it may have gone meanwhile, and may be moved already
            self._states.set_aside(path)
        self._saved = max(self._states.saved(), default=-1)
        self.save()

    def can_afford_saving(self) -> bool:
        """Whether another save would leave the disk most of the time."""
        return time.monotonic() - self._saved_at > self._save_seconds / _SAVING_SHARE

    def settle(self) -> Version | None:
        """What a new version leaves to do once it is published: its state, a snapshot, as far as they are due.

        Blocks. Returns the version with its snapshot if it got one, which is offered once the ledger knows it
        (`snapshot_stored`). Raises `StorageError`; then the same call may be repeated.
        """
        if self._unsaved_seconds > _MOST_TO_REPEAT_SECONDS and self.can_afford_saving():
            self.save()
        if not self._needs_snapshot():
            return None
        state = self._state or self._load()
        staged = self._blobs.staging / f"snapshot-{state.version}"
        _write_snapshot(staged, state)
        sha256, size_bytes = self._add(staged)
        return replace(self.newest, snapshot_sha256=sha256, snapshot_bytes=size_bytes)

    def snapshot_stored(self, version: Version) -> None:
        """The ledger knows the snapshot of `version`: joiners get it, and one that is too old goes."""
        self.history[version.version] = version
        if version.version not in self._snapshots:
            self._snapshots.append(version.version)
        self._forget_old_snapshots()

    def lost(self, sha256: str) -> None:
        """The blob `sha256` is not there any more: no way leads over it."""
        self._snapshots = [v for v in self._snapshots if self.history[v].snapshot_sha256 != sha256]
        gone = [v.version for v in self.history[1:] if v.update_sha256 == sha256]
        self.forget_updates(max(gone, default=0))

    def forget_updates(self, upto: int) -> None:
        """Offer no update to version `upto` or one before it any more; their blobs may go from here on."""
        self._updates_gone = max(self._updates_gone, upto)

    def can_be_joined(self) -> bool:
        """Whether a way leads from nothing to the newest version."""
        return self._from_snapshot() is not None

    def catch_up(self, held_version: int | None) -> list[Blob]:
        """The fewest bytes from `held_version` (None: nothing) to the newest: updates, or a snapshot and updates.

        Names only blobs that are there. Raises `Refused` while there is no way.
        """
        ways = [self._from_snapshot()]
        if held_version is not None and held_version <= self.newest.version:
            ways.insert(0, self._updates(held_version))
        open_ways = [way for way in ways if way is not None]
        if not open_ways:
            raise Refused(Refusal.REFUSAL_BUSY, "the weights are being written anew: come back soon", _SOON)
        return min(open_ways, key=lambda blobs: sum(blob.size_bytes for blob in blobs))

    # -- inside -------------------------------------------------------------------------------------------------

    def _load(self) -> RunState:
        """The newest version's state: the last saved one that is sound, stepped again by what made those after it."""
        self._state = None
        state, source, failed = self._state_of(self.newest.version)
        damaged = tuple(what for _, what in failed)
        for bad, _ in failed:
            if bad.path is not None:
                self._states.set_aside(bad.path)
        self._state = state
        self._forget_undone_states()
        self._saved = max(self._states.saved(), default=-1)
        steps = [number for number in self._lineage(state.version) if number > source.version]
        self.loaded = Loaded(source.name, len(steps), damaged)
        if damaged or self._saved < 0:
            self._save_unless_full()
        return state

    def _state_of(self, version: int) -> tuple[RunState, Source, list[tuple[Source, str]]]:
        """The state of `version`, where it was stepped from, and which later sources were damaged, a sentence each."""
        failed: list[tuple[Source, str]] = []
        way = self._lineage(version)
        for source in self._states.sources():
            if source.version not in way:
                continue  # it is later, or was undone
            try:
                state = source.load()
                self._check(state, source.version, f"{source.name} is not the published version {source.version}")
            except IntegrityError as error:
                _log.error("state_damaged", source=source.name, error=str(error))
                failed.append((source, str(error)))
                continue
            self._step_again(state, [number for number in way if number > source.version], failed)
            return state, source, failed
        raise IntegrityError(
            f"no sound state of any version is left ({'; '.join(what for _, what in failed)}): "
            "restore the run from a backup"
        )

    def _step_again(self, state: RunState, numbers: Sequence[int], failed: Sequence[tuple[Source, str]]) -> None:
        """Step `state` to each of the versions `numbers` in turn; `failed` is why that is needed."""
        try:
            for done, number in enumerate(numbers, start=1):
                self._step_to(state, number)
                if done % _MANY_STEPS == 0:
                    _log.info("stepping_again", version=number, newest=numbers[-1])
        except IntegrityError as error:
            because = f" (needed since {failed[0][1]})" if failed else ""
            raise IntegrityError(f"{error}{because}") from error

    def _step_to(self, state: RunState, number: int) -> None:
        if self.history[number].back_to is not None:
            state.version = number  # it is the same again
        else:
            counted = self._counted_of(number)
            for one in counted:
                self._blobs.check(one.contribution.sha256)
            try:
                for _ in advance(state, self._config, counted, self._blobs):
                    pass
            except DecodeError as error:
                raise IntegrityError(_undecodable(number, error)) from None
        self._check(state, number, f"its contributions do not make the published version {number}")

    def _lineage(self, version: int) -> list[int]:
        """The versions that `version` was made from, one after the other, and itself."""
        return lineage(self.history, version)

    def _left_behind(self) -> set[int]:
        return set(range(len(self.history))).difference(self._lineage(self.newest.version))

    def _forget_undone_states(self) -> None:
        """Nothing is made from them any more."""
        kept = self._lineage(self.newest.version)
        self._states.forget_all_but([version for version in self._states.saved() if version in kept])

    def _save_unless_full(self) -> None:
        """What was saved is damaged: the next start must not need it."""
        try:
            self.save()
        except StorageError as error:
            _log.error("storage_error", error=str(error))
            self._unsaved_seconds = math.inf

    def _check(self, state: RunState, version: int, otherwise: str) -> None:
        published = self.history[version]
        facts = (state.version, state.images, self.layout.weights_digest(state.published))
        if facts != (version, published.images, published.weights_digest):
            raise IntegrityError(f"{otherwise}: restore it from a backup")

    def _add(self, staged: Path) -> tuple[str, int]:
        """Make the staged file a blob; returns its name and size."""
        sha256, size_bytes = file_sha256(staged), staged.stat().st_size
        self._blobs.add_file(staged, sha256)
        return sha256, size_bytes

    def _needs_snapshot(self) -> bool:
        if not self.can_be_joined():
            return True
        last = self._snapshots[-1]
        # As soon as the updates since the last one weigh as much: nobody downloads more than twice a snapshot.
        return sum(v.update_bytes for v in self.history[last + 1 :]) >= self.history[last].snapshot_bytes

    def _forget_old_snapshots(self) -> None:
        kept = {self.history[version].snapshot_sha256 for version in self._snapshots[-KEPT_SNAPSHOTS:]}
        for version in self._snapshots[:-KEPT_SNAPSHOTS]:
            if (sha256 := self.history[version].snapshot_sha256) not in kept:  # two versions may be the same bits
                self._blobs.remove(sha256)
        del self._snapshots[:-KEPT_SNAPSHOTS]

    def _from_snapshot(self) -> list[Blob] | None:
        """From the newest snapshot that a way leads on from; None if there is none."""
        for version in reversed(self._snapshots):
            updates = self._updates(version)
            if updates is not None:
                return [self._snapshot(self.history[version]), *updates]
        return None

    def _updates(self, after: int) -> list[Blob] | None:
        """From version `after` to the newest, or None if one of them is gone."""
        if after < self.updates_since:
            return None
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


def write_update(path: Path, state: RunState, config: RunConfig, counted: Sequence[Counted], blobs: BlobStore) -> None:
    """Step `state` by what `counted` in the order given, and write the update that takes replicas there to `path`.

    The one way from a version to the next. When it raises, the state is neither and must be loaded again.
    """
    chunks = advance(state, config, counted, blobs)
    with storage_errors(path), path.open("wb") as file:
        write_vector(file, config.codec.update, len(state.published), chunks)


def advance(state: RunState, config: RunConfig, counted: Sequence[Counted], blobs: BlobStore) -> Iterator[bytes]:
    """The chunks of that update; the state is stepped once all have been taken. Raises `IntegrityError`, `DecodeError`."""
    num_elements = len(state.published)
    with ExitStack() as stack:
        opened = [stack.enter_context(blobs.open(one.contribution.sha256)) for one in counted]
        deltas = [VectorReader(data, config.codec.delta, num_elements) for data in opened]
        given = [Weighed(delta, one.weight, one.scale) for delta, one in zip(deltas, counted, strict=True)]
        images = sum(one.contribution.images for one in counted)
        yield from state.advance(config, aggregate(config.aggregation, given), images)


def _undecodable(version: int, error: DecodeError) -> str:
    return f"a contribution to version {version} cannot be decoded ({error}): restore its blob from a backup"


def first_version(state: RunState, *, layout: Layout, blobs: BlobStore, folder: Path) -> Version:
    """Store version 0 of a run: its snapshot and its state."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = blobs.staging / "snapshot-0"
    _write_snapshot(staged, state)
    sha256, size_bytes = file_sha256(staged), staged.stat().st_size
    blobs.add_file(staged, sha256)
    state.save(folder / "state-0.safetensors")
    return Version(0, 0, layout.weights_digest(state.published), "", 0, sha256, size_bytes, now_ms())


def _write_snapshot(path: Path, state: RunState) -> None:
    with storage_errors(path), path.open("wb") as file:
        write_vector(file, Codec.FP32, len(state.published), encode_chunks(Codec.FP32, state.published))
