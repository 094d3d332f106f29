"""Looks at the run every few seconds, and gives what is new to the messenger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.alerts.alert import Alert, message
from coordinator.alerts.messenger import Messenger
from coordinator.alerts.news import Facts, News
from coordinator.alerts.post import post
from coordinator.alerts.target import Target, read_target
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import ALERTS_FAILED, Problems
from coordinator.records import Action, Version, now_ms
from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import ConfigError, StorageError

_EVERY_SECONDS: Final = 5.0
_LAST_SECONDS: Final = 1.0
"""That a stop leaves for what is on its way."""

_log = events.logger("coordinator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Where a look finds what it tells of."""

    problems: Problems
    ledger: LedgerThread
    versions: Callable[[], Sequence[Version]]
    """All, oldest first."""
    complete: Callable[[], bool]
    heard: Callable[[], bool]
    """Whether any worker was, lately."""
    resting: Callable[[], bool]


class AlertWatch:
    """Of one run. Without a webhook it does nothing; one may be set, changed and taken away at any time."""

    def __init__(self, *, run_id: str, file: Path, sources: Observed, clock: Clock) -> None:
        """`file` has the webhook's address."""
        self._run_id = run_id
        self._file = file
        self._sources = sources
        self._clock = clock
        self._address = ""
        self._target: Target | None = None
        self._stamp: tuple[int, int] | None = None
        """Of the file when it was read last."""
        self._news: News | None = None
        self._last_action = 0
        self._num_versions = 0
        self._messenger = Messenger(send=self._send, outcome=self._outcome, clock=clock)

    async def run(self, address: str) -> None:
        """Look again and again, for ever; `address` is where the run is served."""
        self._address = address
        self._messenger.start()
        while True:
            await asyncio.sleep(
                _EVERY_SECONDS
            )  # first: what dies at once, again and again, must not tell of it each time
            try:
                await self.look()
            except StorageError as error:  # which the problems name already
                _log.error("storage_error", error=str(error))

    async def look(self) -> None:
        """Tell what is new."""
        await self._read_target()
        if self._target is None:
            return
        if self._news is None:
            await self._begin(self._target)
        assert self._news is not None
        sources, versions = self._sources, self._sources.versions()
        actions = await sources.ledger.run(Ledger.actions, self._last_action)
        facts = Facts(
            problems=sources.problems.present(),
            versions=versions[self._num_versions :],
            actions=actions,
            complete=sources.complete(),
            heard=sources.heard(),
            resting=sources.resting(),
        )
        self._note(versions, actions)
        self._messenger.tell(self._news.look(facts, self._clock.now(), now_ms()))

    async def close(self) -> None:
        """Tell the last, and end."""
        if self._news is not None:
            with suppress(StorageError):
                await self.look()
        await asyncio.to_thread(self._messenger.stop, _LAST_SECONDS)

    async def _begin(self, target: Target) -> None:
        self._news = News(
            complete=self._sources.complete(), silence_seconds=60 * target.silence_minutes, now=self._clock.now()
        )
        self._note(self._sources.versions(), await self._sources.ledger.run(Ledger.actions))

    def _note(self, versions: Sequence[Version], actions: Sequence[Action]) -> None:
        self._num_versions = len(versions)
        self._last_action = actions[-1].action_id if actions else self._last_action

    async def _read_target(self) -> None:
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        self._stamp, before = stamp, self._target
        try:
            self._target = await asyncio.to_thread(read_target, self._file)
        except ConfigError as error:
            self._target = None
            self._outcome(str(error))
        else:
            self._outcome("")
        if self._target != before:
            self._news = None  # from here on, with what is there now

    def _send(self, alerts: Sequence[Alert], lost: int) -> None:
        if (target := self._target) is not None:
            post(target, message(self._run_id, self._address, alerts, lost))

    def _outcome(self, why_not: str) -> None:
        if why_not:
            self._sources.problems.set(ALERTS_FAILED, f"nobody is told of problems: {why_not}")
        else:
            self._sources.problems.clear(ALERTS_FAILED)
