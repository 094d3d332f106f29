"""How full the run's folder and its disk are, looked at only while somebody wants to know, and seldom even then."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

from coordinator.folder_size import measure
from coordinator.web.sources import DiskNow
from diffusion_at_home.clock import Clock

_SECONDS: Final = 300.0
"""For which a look is good: it walks through all files."""


class DiskWatch:
    """Of one run's folder."""

    def __init__(self, root: Path, quota_bytes: int, clock: Clock) -> None:
        """`quota_bytes` 0 is none."""
        self._root = root
        self._quota_bytes = quota_bytes
        self._clock = clock
        self._looking: asyncio.Task[DiskNow] | None = None
        self._looked_at = 0.0
        self._latest: DiskNow | None = None

    def __call__(self) -> DiskNow | None:
        """As it was when it was last looked at; who asks too late for that has it looked at again."""
        task = self._looking
        if task is not None and task.done():
            self._looking = None
            if not task.cancelled() and task.exception() is None:
                self._latest = task.result()
        if self._looking is None and (self._latest is None or self._clock.now() >= self._looked_at + _SECONDS):
            self._looked_at = self._clock.now()
            self._looking = asyncio.create_task(asyncio.to_thread(self._look))
        return self._latest

    def _look(self) -> DiskNow:
        free = shutil.disk_usage(self._root).free
        return DiskNow(measure(self._root).total_bytes, self._quota_bytes or None, free)
