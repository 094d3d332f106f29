"""Where the pages have their facts from: everything is only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.admission import Admission
from coordinator.checkpoints import Checkpoints
from coordinator.dispatcher import AtWork
from coordinator.judging.published import Judgements
from coordinator.ledger_thread import LedgerThread
from coordinator.standing import Standing
from coordinator.status import LiveStatus
from coordinator.storage_forecast import Storage
from diffusion_at_home.runspec import RunSpec


@dataclass(frozen=True, slots=True)
class DiskNow:
    """The run's folder and the disk that it is on, when they were last looked at, and how long that will do."""

    used_bytes: int
    quota_bytes: int | None
    """None is no quota."""
    free_bytes: int
    """Of the disk."""
    growth_bytes_per_day: float | None
    """By the pace of the last day; None while nobody can tell."""
    days_to_end: float | None
    """Until the run has its images, at that pace; None if that is not known, or nothing moves."""
    needed_bytes: int | None
    """That will come until the end; with a quota no more than that leaves. None while nobody can tell."""
    days_to_quota: float | None
    """None if it is not known, or never reached before the end."""
    days_to_full: float | None
    """The same of the disk."""
    goes_first: str
    """What would be deleted first at the quota, as things are now; or that nothing would."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Of one run that is served."""

    spec: RunSpec
    address: str
    """What volunteers are told, with its fingerprint."""
    num_parameters: int
    """Of the model, that are trained."""
    ledger: LedgerThread
    """With a connection that only reads, so that no page keeps the run waiting."""
    checkpoints: Checkpoints
    judgements: Judgements
    standing: Standing
    admission: Admission
    live: Callable[[], LiveStatus]
    """What only the running process knows, now."""
    at_work: Callable[[], Sequence[AtWork]]
    """The workers that are there, now."""
    waiting: Callable[[], int]
    """How many of them stand in line."""
    disk: Callable[[], DiskNow | None]
    """As it was when it was last looked at."""
    next_round: Callable[[], int]
    """Number of the round after the newest version."""


def disk_now(storage: Storage | None) -> DiskNow | None:
    """The forecast; None until there is one."""
    if storage is None:
        return None
    return DiskNow(
        used_bytes=storage.used_bytes,
        quota_bytes=storage.quota_bytes or None,
        free_bytes=storage.free_bytes,
        growth_bytes_per_day=storage.growth_bytes_per_day,
        days_to_end=storage.days_to_end,
        needed_bytes=storage.needed_bytes,
        days_to_quota=storage.days_to_quota,
        days_to_full=storage.days_to_full,
        goes_first=storage.goes_first,
    )
