"""Reads what lies on the disk again and again, slowly, and compares it with its digest, before somebody needs it.

What joiners need comes first. What is damaged is moved to `damaged/`, is not served any more, and is named as a problem
until it is healed: what can be made again is, the rest waits for the operator's backup. A file counts as damaged only when
it has been read wrongly twice: memory and cables flip bits too.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from coordinator.blobs import is_sha256
from coordinator.disk import Disk
from coordinator.exporter import give_way
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import DAMAGED, damaged
from coordinator.records import Checkpoint, HeldDelta, Version, Withdrawn
from coordinator.recovery import missing_sentence, withdrawn_sentence
from coordinator.run_folder import RunFolder
from coordinator.status import best_checkpoint
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, load_manifest
from diffusion_at_home.errors import IntegrityError, StorageError, storage_errors
from diffusion_at_home.runspec import RunSpec

_PIECE_BYTES: Final = 1 << 20
_REST_SECONDS: Final = 60.0
"""From the start of one round through everything to that of the next, at least."""

T = TypeVar("T")
_log = events.logger("coordinator")


class What(StrEnum):
    """What a file is to the run."""

    SPEC = "specification"
    SNAPSHOT = "snapshot"
    UPDATE = "update"
    SHARD = "shard"
    TEXT_ENCODER = "text encoder"
    CONTRIBUTION = "contribution"
    CHECKPOINT = "checkpoint"
    HELD_OUT = "held-out shard"


class Finding(StrEnum):
    """What reading a file has shown."""

    SOUND = "sound"
    GONE = "gone"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Target:
    """One file, and what it should be."""

    what: What
    path: Path
    sha256: str
    name: str
    """Of the problem if it is not: the sha256 of a blob, or the name of a checkpoint or a held-out shard."""
    about: str
    """For people."""


def joiners_first(
    *, spec: RunSpec, history: Sequence[Version], snapshots: Sequence[int], folder: RunFolder
) -> list[Target]:
    """What a worker that joins now fetches, in its order: specification, text encoder, snapshots and updates since, shards."""
    blobs = folder.blobs
    since = min(snapshots, default=len(history))
    wanted = [(What.SPEC, spec.sha256, "the run's specification")]
    files = spec.text_encoder.files if spec.text_encoder else ()
    wanted += [(What.TEXT_ENCODER, file.sha256, f"the text encoder's {file.name}") for file in files]
    wanted += [(What.SNAPSHOT, history[v].snapshot_sha256, f"the snapshot of version {v}") for v in reversed(snapshots)]
    wanted += [(What.UPDATE, v.update_sha256, f"the update to version {v.version}") for v in history[since + 1 :]]
    wanted += [(What.SHARD, entry.sha256, f"shard {entry.name}") for entry in spec.data.train]
    return [Target(what, blobs / sha256, sha256, sha256, about) for what, sha256, about in wanted]


def the_rest(
    *,
    spec: RunSpec,
    history: Sequence[Version],
    snapshots: Sequence[int],
    deltas: Sequence[HeldDelta],
    folder: RunFolder,
) -> list[Target]:
    """What only a restart, a replay, an evaluation or a worker that is far behind needs."""
    blobs, since = folder.blobs, min(snapshots, default=0)
    found = [
        Target(What.CONTRIBUTION, blobs / d.sha256, d.sha256, d.sha256, f"a contribution to round {d.round_number}")
        for d in reversed(deltas)
    ]
    found += [
        Target(What.HELD_OUT, folder.held_out / entry.name, entry.sha256, entry.name, f"held-out shard {entry.name}")
        for entry in spec.data.held_out
    ]
    found += [
        Target(
            What.UPDATE, blobs / v.update_sha256, v.update_sha256, v.update_sha256, f"the update to version {v.version}"
        )
        for v in reversed(history[1 : since + 1])
    ]
    return found


class Scrubber:
    """One thread at the lowest priority, which reads no more than so many bytes a second."""

    def __init__(
        self,
        *,
        bytes_per_second: float,
        disk: Disk,
        spec: RunSpec,
        versions: Versions,
        ledger: LedgerThread,
        heal: Callable[[], Awaitable[None]],
    ) -> None:
        """`heal` writes the newest version's snapshot if joiners have no other way."""
        self._bytes_per_second = bytes_per_second
        self._folder = disk.folder
        self._blobs = disk.blobs
        self._checkpoints = disk.checkpoints
        self._problems = disk.problems
        self._spec = spec
        self._versions = versions
        self._ledger = ledger
        self._heal = heal
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scrub", initializer=give_way)
        self._stopping = threading.Event()

    async def run(self) -> None:
        """Round after round, for ever."""
        if self._bytes_per_second == 0:
            await asyncio.Event().wait()
        while True:
            started = time.monotonic()
            try:
                await self.pass_once()
            except StorageError as error:
                _log.error("storage_error", error=str(error))
            await asyncio.sleep(max(_REST_SECONDS - (time.monotonic() - started), 1.0))

    async def pass_once(self) -> None:
        """Read everything once. Raises `StorageError`."""
        spec, folder, versions = self._spec, self._folder, self._versions
        first = joiners_first(spec=spec, history=versions.history, snapshots=versions.snapshots, folder=folder)
        await self._look_at(first)
        await self._look_at_checkpoints()
        deltas = await self._ledger.run(Ledger.held_deltas)
        rest = the_rest(spec=spec, history=versions.history, snapshots=versions.snapshots, deltas=deltas, folder=folder)
        await self._look_at(rest)
        self._forget_what_nobody_needs({target.name for target in (*first, *rest)})

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._executor.shutdown(wait=True)

    # -- looking ------------------------------------------------------------------------------------------------

    async def _look_at(self, targets: Iterable[Target]) -> None:
        for target in targets:
            finding = await self._in_thread(lambda target=target: self._check(target))  # type: ignore[misc]
            if finding is Finding.DAMAGED:
                await self._found_damaged(target)
            elif finding is Finding.SOUND:
                self._problems.clear(damaged(target.name))
            elif target.what in {What.SHARD, What.TEXT_ENCODER, What.HELD_OUT}:
                self._name(target)

    async def _look_at_checkpoints(self) -> None:
        offered = await self._ledger.run(Ledger.checkpoints)
        first = [*offered[-1:], *filter(None, [best_checkpoint(tuple(offered))])]
        for checkpoint in dict.fromkeys([*first, *reversed(offered)]):
            for target in await self._in_thread(lambda checkpoint=checkpoint: self._files(checkpoint)):  # type: ignore[misc]
                if await self._in_thread(lambda target=target: self._check(target)) is not Finding.SOUND:  # type: ignore[misc]
                    await self._withdraw(checkpoint, target)
                    break

    def _files(self, checkpoint: Checkpoint) -> list[Target]:
        folder = self._folder.checkpoints / checkpoint.name
        about = f"checkpoint {checkpoint.name}"
        manifest = Target(What.CHECKPOINT, folder / MANIFEST_NAME, checkpoint.manifest_sha256, checkpoint.name, about)
        try:
            files = load_manifest(folder).files
        except IntegrityError:
            files = {}  # what is wrong with the manifest is found when it is read
        return [
            manifest,
            *(Target(What.CHECKPOINT, folder / path, e.sha256, checkpoint.name, about) for path, e in files.items()),
        ]

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _check(self, target: Target) -> Finding:
        for _ in range(2):
            try:
                if self._slow_sha256(target.path) in {target.sha256, None}:
                    return Finding.SOUND
            except FileNotFoundError:
                return Finding.GONE
            except OSError as error:
                _log.error("read_failed", path=str(target.path), error=str(error))
        return Finding.DAMAGED

    def _slow_sha256(self, path: Path) -> str | None:
        """The file's digest; None if we are to stop."""
        sha256, started, num_bytes = hashlib.sha256(), time.monotonic(), 0
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                sha256.update(piece)
                num_bytes += len(piece)
                ahead = num_bytes / self._bytes_per_second - (time.monotonic() - started)
                if self._stopping.wait(max(ahead, 0)):
                    return None
        return sha256.hexdigest()

    def _forget_what_nobody_needs(self, looked_at: set[str]) -> None:
        """A blob that was damaged, and that the run has let go of since, is no problem."""
        for problem in self._problems.present():
            kind, _, name = problem.name.partition(":")
            if kind == DAMAGED and is_sha256(name) and name not in looked_at:
                self._problems.clear(problem.name)

    # -- what is done about it ----------------------------------------------------------------------------------

    def _name(self, target: Target) -> None:
        place = self._folder.held_out / target.name if target.what is What.HELD_OUT else target.path
        self._problems.set(damaged(target.name), missing_sentence(place.parent, place.name, target.about))

    async def _found_damaged(self, target: Target) -> None:
        _log.error("damaged", what=target.what.value, name=target.name)
        self._name(target)
        if target.what is What.HELD_OUT:
            return  # never served, and refused by its digest whenever it is read
        await self._in_thread(lambda: self._blobs.set_aside(target.sha256, self._folder.damaged))
        match target.what:
            case What.SPEC:
                await self._in_thread(lambda: self._blobs.add_bytes(self._spec.to_bytes()))
            case What.SNAPSHOT | What.UPDATE:
                self._versions.lost(target.sha256)
                await self._heal()
            case _:
                return
        self._problems.clear(damaged(target.name))
        _log.info("healed", what=target.what.value, name=target.name)

    async def _withdraw(self, checkpoint: Checkpoint, target: Target) -> None:
        """Offer a damaged checkpoint no more."""
        offered = await self._ledger.run(Ledger.checkpoints)
        if checkpoint not in offered:
            return  # it has gone meanwhile
        _log.error("damaged", what=target.what.value, name=target.name, path=str(target.path))
        await self._ledger.run(Ledger.withdraw, checkpoint.name, Withdrawn.DAMAGED)
        self._checkpoints.forget(checkpoint.name)
        aside = self._folder.damaged / checkpoint.name
        await self._in_thread(lambda: _move(self._folder.checkpoints / checkpoint.name, aside))
        self._problems.set(damaged(checkpoint.name), withdrawn_sentence(aside))


def _move(source: Path, aside: Path) -> None:
    with storage_errors(aside.parent):
        aside.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            source.rename(aside)
