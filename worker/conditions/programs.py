"""Make way for programs that the volunteer has named (`when.pause_for`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, Protocol

import psutil

from diffusion_at_home.clock import Clock
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.conditions.seldom import Seldom
from worker.settings import WorkerSettings

_ASK_SECONDS: Final = 10.0


class ProgramSensor(Protocol):
    """What sees the programs that run."""

    def __call__(self) -> Iterable[str]:
        """Their names."""


class Programs:
    """See `Rule`. Patterns are a shell's, and small and capital letters the same."""

    def __init__(self, sensor: ProgramSensor, clock: Clock) -> None:
        self._names = Seldom(lambda: sorted(set(sensor())), _ASK_SECONDS, clock)

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        patterns = [pattern.lower() for pattern in settings.when.pause_for]
        if not patterns:
            return None
        for name in self._names():
            if any(fnmatchcase(name.lower(), pattern) for pattern in patterns):
                return Hindrance(
                    IdleReason.PROGRAM,
                    f"{name[:64]} runs, see when.pause_for: it works again when that has ended",
                    None,
                )
        return None


def running_programs() -> set[str]:
    """Names of all processes but this one, as far as the system tells."""
    processes = psutil.process_iter(["name"])
    return {process.info["name"] for process in processes if process.pid != os.getpid() and process.info["name"]}
