"""A run that real workers train to its end; on the way all of it is killed once, or never."""

from __future__ import annotations

from contextlib import closing

from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from tests.faults.processes import House, Process, Worker, wait_until

LONG_SECONDS = 600.0
"""For real training on a busy machine."""

EQUAL_LEASES = (
    "round.quorum=1.0",
    "round.max_seconds=3600",  # no round closes without somebody
    "lease.timeout_seconds=3600",
    "evaluation.every_images=1000000",
    "checkpoint.every_images=1000000",
)
"""Where a probe has as many steps as a lease at least and at most, what is leased does not depend on who is quick."""


def train(home: House, folder: RunFolder, *, num_workers: int, kill_after: int | None) -> list[str]:
    """Digests of all versions, once the run has its images.

    Once version `kill_after` is published, and a worker is in the middle of a lease, every process is killed with -9, and all
    are started again.
    """
    coordinator, workers = _start(home, folder, num_workers)
    if kill_after is not None:
        at = kill_after
        wait_until(
            lambda: newest_version(folder) >= at and any(worker.is_training() for worker in workers),
            coordinator,
            *workers,
            patience_seconds=LONG_SECONDS,
        )
        for process in (coordinator, *workers):
            process.kill()
        coordinator, workers = _start(home, folder, num_workers)
    for worker in workers:  # the coordinator serves on, so that each of them is told that the run is complete
        assert worker.wait(LONG_SECONDS) == 0, worker.output
    assert coordinator.terminate() == 0, coordinator.output
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return [version.weights_digest for version in ledger.versions()]


def newest_version(folder: RunFolder) -> int:
    """That is published."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.newest_version().version


def _start(home: House, folder: RunFolder, num_workers: int) -> tuple[Process, list[Worker]]:
    coordinator, run = home.coordinator(folder)
    return coordinator, [home.worker(f"worker-{index}", run) for index in range(num_workers)]
