"""What happens to a run at seeded random times."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter
from typing import Final

from benchmarks.soak.camp import Camp

_WEIGHTS: Final = {
    "worker_killed": 4,
    "coordinator_killed": 2,
    "line_cut": 4,
    "line_silent": 3,
    "worker_stopped": 1,
}
_AWAY_SECONDS: Final = (1.0, 20.0)
"""Until a killed worker comes back."""
_SILENT_SECONDS: Final = (2.0, 30.0)
_STOPPED_SECONDS: Final = 15.0
"""Longer than a lease may be silent."""


class Chaos:
    """Faults in a camp, one after another; several may be under way at once."""

    def __init__(self, camp: Camp, *, seed: int, seconds_between: float) -> None:
        self.counts: Counter[str] = Counter()
        self._camp = camp
        self._random = random.Random(seed)  # noqa: S311 -- faults, not secrets
        self._seconds_between = seconds_between
        self._away: dict[int, float] = {}
        self._stopped: dict[int, float] = {}

    def rage(self, seconds: float) -> None:
        """For so long; then everybody is there again."""
        end = time.monotonic() + seconds
        next_fault = time.monotonic() + self._pause()
        while (now := time.monotonic()) < end:
            if now >= next_fault:
                self._fault()
                next_fault = time.monotonic() + self._pause()
            self._bring_back(now)
            time.sleep(0.1)
        self._bring_back(float("inf"))

    def _pause(self) -> float:
        return self._random.expovariate(1 / self._seconds_between)

    def _fault(self) -> None:
        kind = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        index = self._random.randrange(len(self._camp.workers))
        now = time.monotonic()
        if kind.startswith("worker") and (index in self._away or index in self._stopped):
            return
        self.counts[kind] += 1
        print(f"{kind}, worker {index}, {self._camp.images} images", file=sys.stderr, flush=True)
        match kind:
            case "worker_killed":
                self._camp.workers[index].kill()
                self._camp.workers[index].wait()
                self._away[index] = now + self._random.uniform(*_AWAY_SECONDS)
            case "coordinator_killed":
                self._camp.coordinator.kill()
                self._camp.coordinator.wait()
                self._camp.start_coordinator()
            case "line_cut":
                self._camp.links[index].cut()
            case "line_silent":
                self._camp.links[index].silence(self._random.uniform(*_SILENT_SECONDS))
            case "worker_stopped":
                self._camp.workers[index].send_signal(signal.SIGSTOP)
                self._stopped[index] = now + _STOPPED_SECONDS

    def _bring_back(self, now: float) -> None:
        for index in [index for index, until in self._stopped.items() if until <= now]:
            del self._stopped[index]
            self._camp.workers[index].send_signal(signal.SIGCONT)
        for index in [index for index, until in self._away.items() if until <= now]:
            del self._away[index]
            self._camp.start_worker(index)
        others = [worker for index, worker in enumerate(self._camp.workers) if index not in self._away]
        assert all(worker.poll() is None for worker in others), self._camp.complaint
