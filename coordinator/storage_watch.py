"""Looks now and then how long the disk will do, and makes it a problem before it is one."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from coordinator.exporter import give_way
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import STORAGE_SOON, Problems
from coordinator.run_folder import RunFolder
from coordinator.storage_forecast import Storage
from coordinator.storage_survey import read_records, survey
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import StorageError

_EVERY_SECONDS: Final = 300.0

_log = events.logger("coordinator")


class StorageWatch:
    """Of one run; a thread at the lowest priority walks through its folder."""

    def __init__(
        self,
        *,
        folder: RunFolder,
        config: RunConfig,
        quota_bytes: int,
        versions: Versions,
        ledger: LedgerThread,
        problems: Problems,
    ) -> None:
        self._folder = folder
        self._config = config
        self._quota_bytes = quota_bytes
        self._versions = versions
        self._ledger = ledger
        self._problems = problems
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="survey", initializer=give_way)
        self.latest: Storage | None = None
        """What was found last; None before."""

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                await self.look()
            except (OSError, StorageError) as error:
                _log.error("survey_failed", error=str(error))
            await asyncio.sleep(_EVERY_SECONDS)

    async def look(self) -> None:
        """Look now."""
        records = await self._ledger.run(read_records)
        history = list(self._versions.history)
        found = await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: survey(self._folder, self._config, history, records, self._quota_bytes)
        )
        self.latest = found
        if found.warning:
            self._problems.set(STORAGE_SOON, found.warning)
        else:
            self._problems.clear(STORAGE_SOON)

    def close(self) -> None:
        """Finish what was begun."""
        self._executor.shutdown(wait=True)
