"""Keeps a run's folder within its quota: measures what there is, asks `retention` what may go, and lets it go.

The ledger is written first and files are deleted last, so a process that dies anywhere leaves files that nothing names,
which the next start deletes. Does nothing, and costs nothing, without a quota.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from coordinator.blobs import BlobStore
from coordinator.disk import Disk
from coordinator.folder_size import below, measure, own
from coordinator.intake import Intake
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import QUOTA_EXCEEDED
from coordinator.records import Checkpoint, HeldDelta, Withdrawn
from coordinator.retention import Holdings, KeptCheckpoint, Plan, plan
from coordinator.run_folder import RunFolder, delete
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.errors import IntegrityError, StorageError
from diffusion_at_home.runspec import RunSpec

GIB: Final = 2**30

_DELETED_AT_ONCE: Final = 256
"""Blobs; while they go, no transaction of the ledger does."""

T = TypeVar("T")
_log = events.logger("coordinator")


class InThread(Protocol):
    """Runs what blocks in the thread in which versions are made."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        """What `work` returns."""


class Housekeeper:
    """Applies the quota; one call at a time, while no version is being made."""

    def __init__(
        self,
        *,
        quota_bytes: int,
        disk: Disk,
        spec: RunSpec,
        versions: Versions,
        intake: Intake,
        ledger: LedgerThread,
    ) -> None:
        self._quota_bytes = quota_bytes
        self._folder = disk.folder
        self._blobs = disk.blobs
        self._states = disk.states
        self._checkpoints = disk.checkpoints
        self._problems = disk.problems
        self._shards = {entry.sha256 for entry in spec.data.train}
        self._spec_sha256 = spec.sha256
        self._versions = versions
        self._intake = intake
        self._ledger = ledger

    def forget_uploads(self) -> None:
        """Delete what has come in for leases that cannot count any more."""
        self._intake.tidy()

    async def tidy(self, in_thread: InThread) -> None:
        """Let go of what is above the quota. What can't be done now is a problem, and tried again after the next version."""
        if self._quota_bytes == 0:
            return
        try:
            await self._tidy(in_thread)
        except (StorageError, IntegrityError) as error:
            _log.error("housekeeping_failed", error=str(error))
            self._problems.set(QUOTA_EXCEEDED, f"the run's folder cannot be brought within its quota now: {error}")

    async def replace_anchor(self, in_thread: InThread) -> bool:
        """The anchor is damaged: the older of two saved states becomes it, as nothing can be recomputed from before that.

        False while there are no two. Raises `StorageError`.
        """
        await in_thread(self._versions.save)
        older = [v for v in self._states.saved() if self._states.anchor_version < v < self._versions.saved]
        if not older:
            return False
        try:
            await self._move_anchor(older[0], in_thread)
        except IntegrityError as error:
            _log.error("state_damaged", error=str(error))
            return False
        return True

    async def _tidy(self, in_thread: InThread) -> None:
        holdings = await self._holdings(in_thread)
        decided = plan(holdings, self._quota_bytes, may_save=True)
        if decided.wants_save and self._versions.can_afford_saving():
            saved = await self._save(in_thread)
            holdings = await self._holdings(in_thread)
            decided = plan(holdings, self._quota_bytes, may_save=saved)
        await self._apply(decided, in_thread)
        if decided.over_bytes == 0:
            self._problems.clear(QUOTA_EXCEEDED)
        elif not decided.waits:
            self._problems.set(QUOTA_EXCEEDED, quota_sentence(self._quota_bytes, decided.over_bytes))

    async def _save(self, in_thread: InThread) -> bool:
        """Whether the newest state is saved; on a full disk something else has to go first."""
        try:
            await in_thread(self._versions.save)
        except StorageError as error:
            _log.error("storage_error", error=str(error))
            return False
        return True

    # -- what there is ------------------------------------------------------------------------------------------

    async def _holdings(self, in_thread: InThread) -> Holdings:
        deltas = await self._ledger.run(Ledger.held_deltas)
        offered = await self._ledger.run(Ledger.checkpoints)
        return await in_thread(lambda: self._measure(deltas, offered))

    def _measure(self, deltas: Sequence[HeldDelta], offered: Sequence[Checkpoint]) -> Holdings:
        found, states, versions = measure(self._folder.root), self._states, self._versions
        contributions: Counter[int] = Counter()
        for delta in deltas:
            contributions[delta.round_number] += found.sizes.get(self._folder.blobs / delta.sha256, 0)
        older = [version for version in states.saved() if version != versions.saved]
        return Holdings(
            total_bytes=found.total_bytes,
            newest=versions.newest.version,
            saved=versions.saved,
            state_bytes=found.sizes.get(versions.state_file, 0),
            anchor=states.anchor_version,
            anchor_bytes=own(found, states.anchor_file(states.anchor_version)),
            oldest_snapshot=min(versions.snapshots, default=0),
            damaged=below(found, self._folder.damaged),
            updates={  # also those that no way leads over any more, since the run went back
                version.version: size
                for version in versions.history[1:]
                if (size := found.sizes.get(self._folder.blobs / version.update_sha256, 0))
            },
            states={version: own(found, states.file(version)) for version in older},
            contributions=contributions,
            checkpoints=[KeptCheckpoint(c.name, c.images, c.size_bytes, c.held_out_loss) for c in offered],
        )

    # -- what goes ----------------------------------------------------------------------------------------------

    async def _apply(self, decided: Plan, in_thread: InThread) -> None:
        await in_thread(lambda: self._delete_files(decided))
        if decided.anchor is not None:
            await self._move_anchor(decided.anchor, in_thread)
        await self._forget_updates(decided.updates_upto)
        for name in decided.checkpoints:
            await self._ledger.run(Ledger.withdraw, name, Withdrawn.THINNED)
            self._checkpoints.forget(name)
            folder = self._folder.checkpoints / name
            await in_thread(lambda folder=folder: shutil.rmtree(folder, ignore_errors=True))  # type: ignore[misc]
            _log.info("checkpoint_deleted", name=name)

    def _delete_files(self, decided: Plan) -> None:
        for name in decided.damaged:
            delete(self._folder.damaged / name)
        for version in decided.states:
            self._states.file(version).unlink(missing_ok=True)

    async def _move_anchor(self, version: int, in_thread: InThread) -> None:
        before = {delta.sha256 for delta in await self._ledger.run(Ledger.held_deltas)}
        anchor = await in_thread(lambda: self._states.make_anchor(version))
        await self._ledger.run(Ledger.set_anchor, anchor)
        await in_thread(lambda: self._states.anchor_stored(anchor))
        await self._delete_blobs(before)
        _log.info("anchor_moved", version=version)

    async def _forget_updates(self, upto: int) -> None:
        gone = {v.update_sha256 for v in self._versions.history[1 : upto + 1] if self._blobs.path(v.update_sha256)}
        if not gone:
            return
        self._versions.forget_updates(upto)
        await self._delete_blobs(gone)
        _log.info("updates_deleted", upto=upto)

    async def _delete_blobs(self, names: set[str]) -> None:
        """Delete those of `names` that nothing needs."""
        versions = self._versions
        updates = {version.update_sha256 for version in versions.history[versions.updates_since + 1 :]}
        snapshots = {versions.history[version].snapshot_sha256 for version in versions.snapshots}
        gone = sorted(names - {self._spec_sha256, *self._shards, *updates, *snapshots})
        for start in range(0, len(gone), _DELETED_AT_ONCE):
            await self._ledger.run(_delete_unless_held, self._blobs, gone[start : start + _DELETED_AT_ONCE])


def _delete_unless_held(ledger: Ledger, blobs: BlobStore, names: Sequence[str]) -> None:
    """In the ledger's thread: what is handed in meanwhile may be the same bytes, and is either in it or arriving."""
    held = {delta.sha256 for delta in ledger.held_deltas()}
    for name in names:
        if name not in held:
            blobs.remove(name)


def quota_sentence(quota_bytes: int, over_bytes: int) -> str:
    """What is said when nothing more may go."""
    return (
        f"what must be kept is {over_bytes / GIB:.3g} GiB above storage.quota_gib = {quota_bytes / GIB:.3g}: "
        "raise the quota (`dah coordinator run --quota-gib`) or move the run to a larger disk"
    )


def set_aside(folder: RunFolder) -> list[str]:
    """The names of what was found damaged."""
    return sorted(path.name for path in folder.damaged.iterdir()) if folder.damaged.is_dir() else []
