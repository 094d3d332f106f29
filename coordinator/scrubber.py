"""Reads what lies on the disk again and again, slowly, and compares it with its digest, before somebody needs it.

What joiners need comes first. What is damaged is moved to `damaged/`, is not served any more, and is named as a problem
until it is healed: what can be made again is, the rest waits for the operator's backup. A file counts as damaged only when
it has been read wrongly twice: memory and cables flip bits too.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, TypeVar

from coordinator.best import best_of
from coordinator.blobs import is_sha256
from coordinator.disk import Disk
from coordinator.exporter import give_way
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import DAMAGED, damaged
from coordinator.records import Checkpoint, Withdrawn
from coordinator.recovery import missing_sentence, withdrawn_sentence
from coordinator.run_folder import delete
from coordinator.scrub_targets import Target, What, joiners_first, of_judgements, the_rest, whole_states
from coordinator.slow_reader import SlowReader, Stopped
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, load_manifest
from diffusion_at_home.errors import IntegrityError, StorageError, storage_errors
from diffusion_at_home.runspec import RunSpec

_REST_SECONDS: Final = 60.0
"""From the start of one round through everything to that of the next, at least."""

_STATE: Final = re.compile(r"(state|anchor)-\d+\.safetensors")

T = TypeVar("T")
_log = events.logger("coordinator")


class Finding(StrEnum):
    """What reading a file has shown."""

    SOUND = "sound"
    GONE = "gone"
    DAMAGED = "damaged"


class Healer(Protocol):
    """Makes again what is damaged."""

    async def heal(self) -> None:
        """Write the newest version's snapshot if joiners have no other way."""

    async def replace_state(self, path: Path) -> None:
        """Set the saved state in `path` aside, and save the newest version's."""

    async def replace_anchor(self) -> bool:
        """Make a later state the anchor; whether there is one."""


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
        healer: Healer,
    ) -> None:
        self._is_on = bytes_per_second > 0
        self._reader = SlowReader(bytes_per_second)
        self._folder = disk.folder
        self._blobs = disk.blobs
        self._states = disk.states
        self._checkpoints = disk.checkpoints
        self._problems = disk.problems
        self._spec = spec
        self._versions = versions
        self._ledger = ledger
        self._healer = healer
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="scrub", initializer=give_way)

    async def run(self) -> None:
        """Round after round, for ever."""
        if not self._is_on:
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
        states = whole_states(states=self._states, history=versions.history)
        await self._look_at(states)
        deltas = await self._ledger.run(Ledger.held_deltas)
        rest = the_rest(spec=spec, history=versions.history, snapshots=versions.snapshots, deltas=deltas, folder=folder)
        rest += await self._ledger.run(of_judgements, folder)
        await self._look_at(rest)
        self._forget_what_nobody_needs({target.name for target in (*first, *states, *rest)})

    def close(self) -> None:
        """Stop reading."""
        self._reader.stop()
        self._executor.shutdown(wait=True)

    # -- looking ------------------------------------------------------------------------------------------------

    async def _look_at(self, targets: Iterable[Target]) -> None:
        for target in targets:
            finding = await self._in_thread(lambda target=target: self._check(target))  # type: ignore[misc]
            if target.what is What.SHEET and finding is not Finding.SOUND:
                await self._forget_sheet(target)
            elif finding is Finding.DAMAGED:
                await self._found_damaged(target)
            elif finding is Finding.SOUND:
                self._problems.clear(damaged(target.name))
            elif target.what in {What.SHARD, What.TEXT_ENCODER, What.HELD_OUT, What.AUTOENCODER, What.JUDGING}:
                self._name(target)
            elif target.what is What.ANCHOR and self._is_still_the_anchor(target):
                await self._found_damaged(target)

    async def _look_at_checkpoints(self) -> None:
        offered = await self._ledger.run(Ledger.checkpoints)
        first = [*offered[-1:], *filter(None, [best_of(offered)])]
        for checkpoint in dict.fromkeys([*first, *reversed(offered)]):
            for target in await self._in_thread(lambda checkpoint=checkpoint: self._files(checkpoint)):  # type: ignore[misc]
                if await self._in_thread(lambda target=target: self._check(target)) is not Finding.SOUND:  # type: ignore[misc]
                    await self._withdraw(checkpoint, target)
                    break
        await self._checkpoints.listing()  # which looks at their signatures

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
                if self._is_sound(target):
                    return Finding.SOUND
            except Stopped:
                return Finding.SOUND  # as far as anybody will ever know
            except FileNotFoundError:
                return Finding.GONE
            except OSError as error:
                _log.error("read_failed", path=str(target.path), error=str(error))
        return Finding.DAMAGED

    def _is_sound(self, target: Target) -> bool:
        if isinstance(target.expected, str):
            return self._reader.sha256(target.path) == target.expected
        try:
            found = self._reader.state(target.path)
        except IntegrityError:
            target.path.stat()  # it may have gone meanwhile
            return False
        wanted = target.expected
        return (found.version, found.images) == (wanted.version, wanted.images) and wanted.digest in {"", found.digest}

    def _is_still_the_anchor(self, target: Target) -> bool:
        anchor = self._states.anchor
        return anchor is not None and target.path == self._states.anchor_file(anchor.version)

    def _forget_what_nobody_needs(self, looked_at: set[str]) -> None:
        """A blob or a state that was damaged, and that the run has let go of since, is no problem."""
        for problem in self._problems.present():
            kind, _, name = problem.name.partition(":")
            if kind == DAMAGED and (is_sha256(name) or _STATE.fullmatch(name)) and name not in looked_at:
                self._problems.clear(problem.name)

    # -- what is done about it ----------------------------------------------------------------------------------

    def _name(self, target: Target) -> None:
        match target.what:
            case What.STATE:
                sentence = f"{target.about} is damaged: the newest one is being saved"
            case What.ANCHOR:
                sentence = (
                    f"{target.about} is damaged or missing: no version can be recomputed until a later state has taken its "
                    f"place, as soon as two are saved, or {target.path} is restored from a backup"
                )
            case _:
                sentence = missing_sentence(target.path.parent, target.path.name, target.about)
        self._problems.set(damaged(target.name), sentence)

    async def _found_damaged(self, target: Target) -> None:
        _log.error("damaged", what=target.what.value, name=target.name)
        self._name(target)
        if await self._healed(target):
            self._problems.clear(damaged(target.name))
            _log.info("healed", what=target.what.value, name=target.name)

    async def _healed(self, target: Target) -> bool:
        """Set a damaged file aside and make it again; whether that is possible."""
        match target.what:
            case What.STATE:
                await self._healer.replace_state(target.path)
                return True
            case What.ANCHOR:
                return not self._is_still_the_anchor(target) or await self._healer.replace_anchor()
            case What.HELD_OUT | What.AUTOENCODER | What.JUDGING:
                return False  # never served, and refused by its digest whenever it is read
        await self._in_thread(lambda: self._blobs.set_aside(target.path.name, self._folder.damaged))
        match target.what:
            case What.SPEC:
                await self._in_thread(lambda: self._blobs.add_bytes(self._spec.to_bytes()))
            case What.SNAPSHOT | What.UPDATE:
                self._versions.lost(target.path.name)
                await self._healer.heal()
            case _:
                return False
        return True

    async def _forget_sheet(self, target: Target) -> None:
        """A picture that was drawn for people cannot be made again, and nothing needs it."""
        _log.error("damaged", what=target.what.value, name=target.name)
        await self._ledger.run(Ledger.forget_sheet, target.path.parent.name, target.path.name)
        await self._in_thread(lambda: delete(target.path))

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
