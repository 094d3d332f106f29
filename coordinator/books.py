"""What the live round has given out and got back: the part of the dispatcher's memory that the ledger holds as well.

A batch of decisions is taken on a draft. The ledger stores what the draft changes; only then the draft is the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coordinator.closing import Progress
from coordinator.data_pool import DataPool
from coordinator.records import Contribution, Lease, LeaseId, LeaseState
from diffusion_at_home.data.order import split_ranges
from diffusion_at_home.identity import WorkerId


@dataclass(slots=True)
class Active:
    """A lease that is being worked on."""

    lease: Lease
    granted_at: float | None
    """None if that was before a restart: then nobody knows how long it took."""
    heard_at: float
    """By the attentive clock."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Of leases and contributions, in one transaction."""

    ended: Sequence[tuple[LeaseId, LeaseState]] = ()
    accepted: Sequence[Contribution] = ()
    granted: Sequence[Lease] = ()


@dataclass(slots=True)
class Books:
    """The pool of data, the leases that are out, the round's progress."""

    pool: DataPool
    progress: Progress
    active: dict[LeaseId, Active] = field(default_factory=dict)
    held: dict[WorkerId, LeaseId] = field(default_factory=dict)
    """The active lease of each worker that has one."""
    late: dict[LeaseId, Lease] = field(default_factory=dict)
    """What missed the last round and may still count in this one."""
    firsts: dict[LeaseId, Lease] = field(default_factory=dict)
    """Of the live round, what a second volunteer may train again: leases that are out, and of those handed in what was
    trained. Each once. In a draft its own grants are numbered from -1 downwards."""
    second_budget: float = 0.0
    """Images that second volunteers may still train."""
    second_given: int = 0
    """Images that were granted to them in the live round."""
    newest: dict[WorkerId, LeaseId] = field(default_factory=dict)
    """Of each worker, the latest lease of the live round whose data it has had: leases are numbered as the data follows."""

    def draft(self) -> Draft:
        """A copy that may change. What is heard of an active lease meanwhile is heard by both."""
        return Draft(
            self.pool,
            replace(self.progress),
            dict(self.active),
            dict(self.held),
            dict(self.late),
            dict(self.firsts),
            self.second_budget,
            self.second_given,
            dict(self.newest),
        )

    def add(self, active: Active) -> None:
        """A lease that the ledger has."""
        self.active[active.lease.lease_id] = active
        self.held[active.lease.worker_id] = active.lease.lease_id


@dataclass(slots=True)
class Draft(Books):
    """Books in which decisions are being written; a lease's number is known only when it is stored."""

    ended: list[tuple[LeaseId, LeaseState]] = field(default_factory=list)
    accepted: list[Contribution] = field(default_factory=list)
    granted: list[Lease] = field(default_factory=list)

    @property
    def changes(self) -> Changes:
        """What the ledger has to store, beside the pool."""
        return Changes(self.ended, self.accepted, self.granted)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been decided."""
        return not (self.ended or self.accepted or self.granted)

    def touches(self, lease_id: LeaseId) -> bool:
        """Whether this draft has already decided something of a lease."""
        return any(lease_id == ended for ended, _ in self.ended) or any(lease_id == c.lease_id for c in self.accepted)

    def end(self, lease_id: LeaseId, state: LeaseState) -> bool:
        """Give an active lease's data back; False if it is none any more."""
        active = self.active.get(lease_id)
        if active is None:
            return False
        self._remove(active.lease)
        self.firsts.pop(lease_id, None)
        if not active.lease.is_second:  # else it is the first one's
            self.pool = self.pool.give_back(active.lease.ranges)
        self.ended.append((lease_id, state))
        if self.progress.accepted_images == 0 and not self.active:
            self.progress.started_at = None  # everybody has left: the clock waits for the next first lease
        return True

    def accept(self, contribution: Contribution, undone: DataPool) -> None:
        """Count a contribution; `undone` is the pool with what it left undone."""
        self.pool = undone
        if (active := self.active.get(contribution.lease_id)) is not None:
            self._remove(active.lease)
        self.late.pop(contribution.lease_id, None)
        if (first := self.firsts.get(contribution.lease_id)) is not None:
            trained, _ = split_ranges(first.ranges, contribution.images)
            self.firsts[first.lease_id] = replace(first, ranges=tuple(trained), quota_images=contribution.images)
        self.accepted.append(contribution)

    def grant(self, lease: Lease, pool: DataPool, now: float) -> None:
        """Take a lease out of the pool, which leaves `pool`."""
        self.pool = pool
        self.progress.leased_images += lease.quota_images
        if self.progress.started_at is None:
            self.progress.started_at = now
        self.granted.append(lease)
        if self.second_budget > 0:
            self.firsts[LeaseId(-len(self.granted))] = lease

    def grant_second(self, lease: Lease) -> None:
        """Have a lease that somebody has, or had, trained again: nothing leaves the pool."""
        del self.firsts[lease.second_of]
        self.progress.second_images += lease.quota_images
        self.second_given += lease.quota_images
        self.second_budget -= lease.quota_images
        self.granted.append(lease)

    def number(self, granted: Sequence[Lease]) -> None:
        """The draft's grants have their numbers: they are `granted`, in that order."""
        for place, lease in enumerate(granted, start=1):
            if self.firsts.pop(LeaseId(-place), None) is not None:
                self.firsts[lease.lease_id] = lease
            if self.second_budget > 0:
                self.newest[lease.worker_id] = lease.second_of or lease.lease_id

    def _remove(self, lease: Lease) -> None:
        del self.active[lease.lease_id]
        if self.held.get(lease.worker_id) == lease.lease_id:
            del self.held[lease.worker_id]
        if lease.is_second:
            self.progress.second_images -= lease.quota_images
        else:
            self.progress.leased_images -= lease.quota_images
