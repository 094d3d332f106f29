"""Leave some of the disk to others (`limits.disk_reserve_gib`). What is cached beyond `cache_gib` goes by itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final, Protocol

from diffusion_at_home.clock import Clock
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.conditions.seldom import Seldom
from worker.settings import WorkerSettings

_ASK_SECONDS: Final = 10.0
_GIB: Final = 2**30


class DiskSensor(Protocol):
    """What measures disks."""

    def __call__(self, folder: Path) -> int:
        """Bytes that may still be written where `folder` is, or would be."""


class DiskReserve:
    """See `Rule`."""

    def __init__(self, sensor: DiskSensor, clock: Clock) -> None:
        self._sensor = sensor
        self._folders: tuple[Path, ...] = ()
        self._fullest = Seldom(self._look, _ASK_SECONDS, clock)

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        reserve = settings.limits.disk_reserve_gib
        self._folders = (settings.state_dir, settings.cache_dir)
        if reserve == 0:
            return None
        free, folder = self._fullest()
        if free >= reserve * _GIB:
            return None
        return Hindrance(
            IdleReason.DISK,
            f"the disk of {folder} has {free / _GIB:.2f} GiB left, less than limits.disk_reserve_gib = {reserve:g}: "
            "it works again when there is more",
            None,
        )

    def _look(self) -> tuple[int, Path]:
        return min((self._sensor(folder), folder) for folder in self._folders)


def free_bytes(folder: Path) -> int:
    """See `DiskSensor`. Raises `OSError`."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
