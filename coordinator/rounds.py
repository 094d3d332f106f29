"""The run's main loop: open, collect, close, publish; over and over until the run has its images."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from coordinator.closing import CloseReason
from coordinator.dispatcher import Dispatcher
from coordinator.exporter import Exporter, Kind
from coordinator.housekeeping import Housekeeper
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.metrics import Metrics
from coordinator.problems import damaged
from coordinator.records import Action, Round, RoundState, Version, now_ms
from coordinator.round_screening import RoundScreening
from coordinator.second_opinions import SecondOpinions
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import IntegrityError, StorageError

_TICK_SECONDS: Final = 0.25
"""Longest that a deadline is noticed late."""

_STORAGE_RETRY_SECONDS: Final = 5.0

_RESTORED_RETRY_SECONDS: Final = 5.0
"""Between two looks whether a damaged contribution has been restored."""

T = TypeVar("T")
_log = events.logger("coordinator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Whom a run's rounds are made of."""

    config: RunConfig
    dispatcher: Dispatcher
    screening: RoundScreening
    second_opinions: SecondOpinions
    versions: Versions
    exporter: Exporter
    housekeeper: Housekeeper
    ledger: LedgerThread
    metrics: Metrics
    announce: Callable[[Sequence[str]], Awaitable[None]]
    """Is told the blobs of a version that is about to be offered, and may wait a moment until others have them, too."""


class Rounds:
    """Drives one run. Everything it decides is in the ledger before it is acted upon, so it can die anywhere."""

    def __init__(self, parts: Parts) -> None:
        self._config = parts.config
        self._dispatcher = parts.dispatcher
        self._screening = parts.screening
        self._second_opinions = parts.second_opinions
        self._versions = parts.versions
        self._exporter = parts.exporter
        self._housekeeper = parts.housekeeper
        self._ledger = parts.ledger
        self._metrics = parts.metrics
        self._problems = parts.metrics.problems
        self._announce = parts.announce
        self._making = asyncio.Lock()
        """Held while the newest state is not the newest version's, or something is made of it."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tensors")
        self._settling: asyncio.Task[None] | None = None
        self._going_back: Action | None = None
        """The rollback that ends the open round."""
        self._smallest_round = parts.config.lease.min_steps * parts.config.inner.batch_images

    @property
    def complete(self) -> bool:
        """Whether the run has its images, but for fewer than are worth a lease."""
        return self._versions.newest.images + self._smallest_round > self._config.run.total_images

    async def resume(self) -> None:
        """Know again the leases of the round that was under way; nobody may call before, or theirs would be refused."""
        latest = await self._ledger.run(Ledger.latest_round)
        if latest is not None and latest.state is RoundState.OPEN:
            await self._open()
        elif latest is not None:
            await self._dispatcher.expect_late(latest.number)

    def go_back(self, order: Action) -> None:
        """End the open round and go back to the version that `order` names, if that can be; the newest order counts."""
        if self.complete or (why_not := self._versions.why_not_back(int(order.subject))):
            why_not = "the run is complete" if self.complete else why_not
            _log.warning("rollback_refused", version=order.subject, reason=why_not)
            return
        self._going_back = order
        self._dispatcher.changed.ring()

    def publish_checkpoint(self, order: Action) -> None:
        """Make a checkpoint of the newest version, beside the scheduled ones, as `order` wants."""
        if self.complete:
            _log.info("publication_spared", action=order.action_id)  # the last version has one
            return
        self._settling = asyncio.create_task(self._also_export(self._settling))

    async def run(self) -> None:
        """Until the run is complete and its last checkpoint is out."""
        try:
            await self._run()
        finally:
            if self._settling is not None:
                self._settling.cancel()  # what it was to do is done after the next start

    async def _run(self) -> None:
        self._metrics.version.set(self._versions.newest.version)
        await self.heal()  # a process may have died between losing a snapshot and writing it anew
        await self._export(self._versions.newest)
        while not self.complete:
            live = await self._open()
            if live.state is RoundState.OPEN:
                await self._collect()
            version = await self._publish(live)
            self._housekeeper.forget_uploads()
            await self._export(version)
            self._settling = asyncio.create_task(self._settle(after=self._settling))
        await self._settled()
        await self._last_checkpoint()
        self._dispatcher.complete()
        _log.info("run_complete", images=self._versions.newest.images, version=self._versions.newest.version)

    async def _open(self) -> Round:
        """The next round; after a restart, the one that was under way."""
        base = self._versions.newest
        latest = await self._ledger.run(Ledger.latest_round)
        if latest is not None and (
            latest.state is RoundState.CLOSING or latest.number == self._dispatcher.round_number
        ):
            return latest
        is_new = latest is None or latest.state is RoundState.CLOSED
        if latest is None or is_new:
            target = min(self._config.round.images, self._config.run.total_images - base.images)
            latest = Round(base.version + 1, target, RoundState.OPEN, now_ms(), "")
        await self._until_stored(lambda: self._dispatcher.open(latest, images_before=base.images, is_new=is_new))
        return latest

    async def _collect(self) -> None:
        """Wait until the round should close, taking back leases that have fallen silent; then close it."""
        while (reason := self._close_reason()) is None:
            await self._dispatcher.changed.wait(_TICK_SECONDS)
            await self._until_stored(self._dispatcher.expire)
            if self._settling is not None and self._settling.done():
                await self._settled()  # a run that stands still must not keep quiet about what that died of
        await self._until_stored(lambda: self._dispatcher.close(reason))

    def _close_reason(self) -> CloseReason | None:
        return self._dispatcher.close_reason() if self._going_back is None else CloseReason.ROLLBACK

    async def _publish(self, closing: Round) -> Version:
        started = time.monotonic()
        await self._settled()
        async with self._making:
            version = await self._until_made(closing)
            await self._announce([version.update_sha256, version.snapshot_sha256])
            await self._until_stored(lambda: self._ledger.run(Ledger.publish, version))
            self._versions.published(version)
            if version.back_to is not None:
                await self._leave_behind(version)
        seconds = time.monotonic() - started
        self._metrics.closing.observe(seconds)
        self._metrics.version.set(version.version)
        _log.info("version_published", version=version.version, images=version.images, seconds=round(seconds, 3))
        return version

    async def _until_made(self, closing: Round) -> Version:
        """The next version; a contribution that can't be read is waited for: its receipt says that it counts."""
        problem = damaged(f"round-{closing.number}")
        while True:
            try:
                version = await self._until_stored(lambda: self._make(closing))
            except IntegrityError as error:
                self._problems.set(problem, f"round {closing.number} cannot be published: {error}")
                await asyncio.sleep(_RESTORED_RETRY_SECONDS)
            else:
                self._problems.clear(problem)
                return version

    async def _make(self, closing: Round) -> Version:
        order = await self._rollback()
        if order is not None:
            return await self._in_thread(lambda: self._versions.go_back(int(order.subject), order.action_id))
        number = closing.number
        await self._screening.decide(number)
        counted = await self._ledger.run(Ledger.counted, number)
        return await self._in_thread(lambda: self._versions.make(counted))

    async def _rollback(self) -> Action | None:
        """The order that closed the latest round, if one did; it is found again after a restart."""
        latest = await self._ledger.run(Ledger.latest_round)
        if latest is None or latest.close_reason != CloseReason.ROLLBACK:
            return None
        return self._going_back or await self._ledger.run(Ledger.pending_rollback)

    async def _leave_behind(self, back: Version) -> None:
        """The run went back: no later start needs what is undone, and nobody is offered it."""
        if self._going_back is not None and self._going_back.action_id == back.action_id:  # else another came meanwhile
            self._going_back = None
        await self._until_stored(lambda: self._in_thread(self._versions.save))
        await self._until_stored(self._exporter.forget_undone)
        _log.warning("rolled_back", version=back.version, back_to=back.back_to, images=back.images)

    async def _export(self, version: Version) -> None:
        due = await self._exporter.due_at(version, final=self.complete)
        if due is None:
            return
        async with self._making:  # as the state that is linked must not be replaced meanwhile
            await self._link(version, due)

    async def _also_export(self, before: asyncio.Task[None] | None) -> None:
        """The newest version, once what was to be settled is."""
        if before is not None:
            await before
        async with self._making:
            newest = self._versions.newest
            due = await self._until_stored(lambda: self._exporter.due_at(newest, final=True))
            if due is None:
                _log.info("publication_spared", version=newest.version)
            else:
                await self._link(newest, due)

    async def _link(self, version: Version, due: Kind) -> None:
        await self._until_stored(lambda: self._in_thread(self._versions.save))
        await self._until_stored(lambda: self._exporter.consider(version, due))

    async def _last_checkpoint(self) -> None:
        """Until it is out. If the state turned out to be damaged that it is made of, that is saved anew and exported."""
        await self._exporter.idle()
        newest = self._versions.newest
        if await self._exporter.due_at(newest, final=True) is None:
            return
        if not await self._in_thread(self._versions.saved_is_sound):
            await self.replace_state(self._versions.state_file)
        await self._export(newest)
        await self._exporter.idle()

    async def _settle(self, after: asyncio.Task[None] | None) -> None:
        """What the newest version leaves to do, while the next round collects; `after` is what came in between."""
        if after is not None:
            await after
        newest = self._versions.newest.version
        await self._until_stored(lambda: self._second_opinions.form(newest))  # before what they are formed of may go
        async with self._making:
            await self._until_stored(self._store_snapshot, otherwise=self._tidy)
            await self._tidy()

    async def _store_snapshot(self) -> None:
        with_snapshot = await self._in_thread(self._versions.settle)
        if with_snapshot is not None:
            await self._announce([with_snapshot.snapshot_sha256])
            await self._ledger.run(Ledger.set_snapshot, with_snapshot)
            self._versions.snapshot_stored(with_snapshot)

    async def _tidy(self) -> None:
        await self._housekeeper.tidy(self._in_thread)

    async def heal(self) -> None:
        """Something was found damaged: give joiners a snapshot if they have no way left."""
        async with self._making:
            if not self._versions.can_be_joined():
                await self._until_stored(self._store_snapshot, otherwise=self._tidy)

    async def replace_state(self, path: Path) -> None:
        """The saved state in `path` was found damaged: it is set aside, and the newest version's is saved."""
        async with self._making:
            await self._until_stored(
                lambda: self._in_thread(lambda: self._versions.replace_saved(path)), otherwise=self._tidy
            )

    async def replace_anchor(self) -> bool:
        """The anchor was found damaged: the older of two saved states becomes it; False while there are no two."""
        async with self._making:
            return await self._until_stored(lambda: self._housekeeper.replace_anchor(self._in_thread))

    async def _settled(self) -> None:
        """Wait for that, and raise what it died of."""
        task, self._settling = self._settling, None
        if task is not None:
            await task

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _until_stored(
        self, work: Callable[[], Awaitable[T]], otherwise: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """Repeat `work` while the disk is full: an operator, or `otherwise`, can free space without losing the round."""
        while True:
            try:
                with self._problems.writing("rounds"):
                    return await work()
            except StorageError as error:
                _log.error("storage_error", error=str(error), retry_seconds=_STORAGE_RETRY_SECONDS)
                if otherwise is not None:
                    await otherwise()
                await asyncio.sleep(_STORAGE_RETRY_SECONDS)

    def close(self) -> None:
        """Finish the arithmetic that was begun."""
        self._executor.shutdown(wait=True)
