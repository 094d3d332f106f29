"""What a run looks like now, for people: the status command, the status page and the demo show these numbers."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.dispatcher import Dispatcher
from coordinator.ledger import Ledger
from coordinator.metrics import Metrics
from coordinator.problems import Problem
from coordinator.records import Checkpoint, Evaluation
from coordinator.recovery import Recovery


@dataclass(frozen=True, slots=True)
class RunStatus:
    """From the ledger alone: as true when the coordinator is down."""

    run_id: str
    version: int
    rounds: int
    images: int
    workers: int
    """That have contributed."""
    joined: int
    contributions: int
    uplink_bytes: int
    """Of all contributions."""
    downlink_bytes: int
    """Of all updates, for one worker that took each."""
    active_leases: int
    evaluations: tuple[Evaluation, ...]
    checkpoints: tuple[Checkpoint, ...]

    @property
    def held_out_loss(self) -> float | None:
        """Of the newest evaluated version, the better of raw and EMA."""
        if not self.evaluations:
            return None
        newest = self.evaluations[-1].version
        return min(evaluation.mean for evaluation in self.evaluations if evaluation.version == newest)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker that was heard lately."""

    worker_id: str
    name: str
    images_per_second: float | None


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """What only the running process knows."""

    round_number: int | None
    target_images: int
    accepted_images: int
    leased_images: int
    seconds_to_close: float | None
    complete: bool
    workers: tuple[WorkerStatus, ...]
    refusals: dict[str, int]
    problems: tuple[Problem, ...]
    """That are present, the oldest first."""
    recovery: Recovery
    """What this process found when it started."""


def read_status(ledger: Ledger) -> RunStatus:
    """The durable part."""
    newest, totals = ledger.newest_version(), ledger.totals()
    return RunStatus(
        run_id=ledger.run_id(),
        version=newest.version,
        rounds=newest.version,
        images=newest.images,
        workers=totals.contributors,
        joined=totals.joined,
        contributions=totals.contributions,
        uplink_bytes=totals.uplink_bytes,
        downlink_bytes=totals.downlink_bytes,
        active_leases=totals.active_leases,
        evaluations=tuple(ledger.evaluations()),
        checkpoints=tuple(ledger.checkpoints()),
    )


def live_status(
    dispatcher: Dispatcher,
    names: dict[str, str],
    metrics: Metrics,
    *,
    recovery: Recovery,
    complete: bool,
) -> LiveStatus:
    """The part in memory."""
    progress = dispatcher.progress
    return LiveStatus(
        round_number=dispatcher.round_number,
        target_images=progress.target_images,
        accepted_images=progress.accepted_images,
        leased_images=progress.leased_images,
        seconds_to_close=dispatcher.seconds_to_close(),
        complete=complete,
        workers=tuple(WorkerStatus(w, names.get(w, w), dispatcher.speed(w)) for w in dispatcher.live_workers()),
        refusals=metrics.refusal_counts(),
        problems=metrics.problems.present(),
        recovery=recovery,
    )


def best_checkpoint(checkpoints: tuple[Checkpoint, ...]) -> Checkpoint | None:
    """The one with the lowest held-out loss; of equals, the newest."""
    return min(checkpoints, key=lambda c: (c.held_out_loss, -c.version), default=None)
