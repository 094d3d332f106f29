"""What a run looks like now, for people: the status command, the status page and the demo show these numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.dispatcher import Dispatcher
from coordinator.ledger import Ledger
from coordinator.metrics import Metrics
from coordinator.problems import Problem
from coordinator.records import Checkpoint, Evaluation, FailedJudgement, Judged

if TYPE_CHECKING:  # it loads torch, which the pages do without
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
    left_out: dict[str, int]
    """Deltas that did not count, by reason."""
    evaluations: tuple[Evaluation, ...]
    checkpoints: tuple[Checkpoint, ...]
    judgements: tuple[Judged, ...]
    """Of checkpoints, also of those that are not offered any more."""
    failed_judgements: tuple[FailedJudgement, ...]

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
class JudgingStatus:
    """What is being judged."""

    checkpoint: str | None
    """Its name; None while nothing is."""
    since_ms: int | None
    """When it was begun, since 1970."""
    waiting: int
    """Checkpoints that were to come after it when it was begun."""
    off: str
    """Why nothing is judged at all; empty where it is."""


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
    judging: JudgingStatus
    recovery: Recovery
    """What this process found when it started."""
    actions: int
    """Number of the operator's last action that it has carried out."""


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
        left_out=ledger.left_out(),
        evaluations=tuple(ledger.evaluations()),
        checkpoints=tuple(ledger.checkpoints()),
        judgements=tuple(ledger.judged()),
        failed_judgements=tuple(ledger.failed_judgements()),
    )


def live_status(
    dispatcher: Dispatcher,
    names: dict[str, str],
    metrics: Metrics,
    *,
    judging: JudgingStatus,
    recovery: Recovery,
    actions: int,
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
        judging=judging,
        recovery=recovery,
        actions=actions,
    )
