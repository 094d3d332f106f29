"""What the ledger knows of leases whose contributions came, for whoever wants to recompute them. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from coordinator import tables
from coordinator.open_ledger import OpenLedger
from coordinator.records import Fault, LeaseId
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId


@dataclass(frozen=True, slots=True)
class HandedIn:
    """A lease, its contribution, its worker's key, and how it counts."""

    lease_id: LeaseId
    round_number: int
    """It was collected in."""
    worker_id: WorkerId
    public_key: bytes
    base_version: int
    ranges: tuple[ShardRange, ...]
    seed: int
    learning_rate: float
    images: int
    sha256: str
    size_bytes: int
    signature: str
    weights: str
    """As of `Contribution`."""
    weight: float
    """In its round's mean."""
    fault: Fault
    residual_before: str
    residual_after: str
    shown_sha256: str
    shown_bytes: int
    second_of: int
    """As of `Lease`."""


class LeaseQueries(OpenLedger):
    """The part of the ledger that is asked for leases."""

    def handed_in(self, round_number: int, after: int, most: int) -> list[HandedIn]:
        """At most `most` of a round, whose leases have numbers above `after`, in the order of these."""
        given = tables.contributions.c
        query = _handed_in().where(given.round_number == round_number, given.lease_id > after)
        return self._records(HandedIn, query.order_by(given.lease_id).limit(most))

    def handed_in_for(self, lease_id: int) -> HandedIn | None:
        """For one lease; None if nothing was, or there is no such lease."""
        if lease_id.bit_length() > 63:
            return None
        found = self._records(HandedIn, _handed_in().where(tables.contributions.c.lease_id == lease_id))
        return found[0] if found else None

    def newest_residual(self, worker: WorkerId) -> str:
        """What the last contribution of a worker left (`Contribution.residual_after`); empty if there is none."""
        given = tables.contributions.c
        query = sa.select(given.residual_after).where(given.worker_id == worker)
        newest = query.order_by(given.contribution_id.desc()).limit(1).scalar_subquery()
        return str(self._scalar(sa.select(newest)) or "")


def _handed_in() -> sa.Select[tuple[object, ...]]:
    given, leases, verdicts, workers = tables.contributions, tables.leases, tables.verdicts, tables.workers
    joined = (
        given.join(leases, given.c.lease_id == leases.c.lease_id)
        .join(workers, given.c.worker_id == workers.c.worker_id)
        .outerjoin(verdicts, given.c.lease_id == verdicts.c.lease_id)
    )
    columns = (
        *(given.c[name] for name in ("lease_id", "round_number", "worker_id")),
        workers.c.public_key,
        *(leases.c[name] for name in ("base_version", "ranges", "seed", "learning_rate")),
        *(given.c[name] for name in ("images", "sha256", "size_bytes", "signature", "weights")),
        # A round that nobody screened has no verdicts: what came counts as it came.
        sa.func.coalesce(verdicts.c.weight, given.c.weight).label("weight"),
        sa.func.coalesce(verdicts.c.fault, sa.literal(Fault.NONE, verdicts.c.fault.type)).label("fault"),
        *(given.c[name] for name in ("residual_before", "residual_after", "shown_sha256", "shown_bytes")),
        leases.c.second_of,
    )
    return sa.select(*columns).select_from(joined)
