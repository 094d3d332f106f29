"""What the ledger knows of leases that two have trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from coordinator import tables
from coordinator.open_ledger import OpenLedger
from coordinator.records import Contribution, Lease, LeaseState, SecondOpinion

_NONE: Final[sa.ColumnElement[int]] = sa.literal_column("0")
"""Written out, so that SQLite sees that the index of leases that are trained again will do."""


@dataclass(frozen=True, slots=True)
class TrainedTwice:
    """A lease that two have handed in for."""

    lease: Lease
    """The second one's."""
    first: Contribution
    second: Contribution


class OpinionQueries(OpenLedger):
    """The part of the ledger that is asked for them."""

    def trained_twice(self, newest_round: int) -> list[TrainedTwice]:
        """Those of rounds up to and with `newest_round` that nobody has an opinion of yet, in the order of their leases."""
        leases, given = tables.leases, tables.contributions
        handed_in, known = sa.select(given.c.lease_id), sa.select(tables.second_opinions.c.lease_id)
        due = sa.select(leases).where(
            leases.c.second_of != _NONE,
            leases.c.state == LeaseState.SUBMITTED,
            leases.c.base_version < newest_round,
            leases.c.second_of.in_(handed_in),
            leases.c.lease_id.not_in(known),
        )
        found = self._records(Lease, due.order_by(leases.c.lease_id))
        wanted = [number for lease in found for number in (lease.lease_id, lease.second_of)]
        rows = self._records(Contribution, sa.select(given).where(given.c.lease_id.in_(wanted)))
        by_lease = {contribution.lease_id: contribution for contribution in rows}
        return [TrainedTwice(lease, by_lease[lease.second_of], by_lease[lease.lease_id]) for lease in found]

    def second_opinions(self, since: int = 0) -> list[SecondOpinion]:
        """Those of leases with numbers above `since`, in their order."""
        rows = tables.second_opinions
        return self._records(SecondOpinion, sa.select(rows).where(rows.c.lease_id > since).order_by(rows.c.lease_id))

    def add_second_opinion(self, opinion: SecondOpinion) -> None:
        """Store what one came to, which is not yet known of its lease."""
        with self._begin() as tx:
            tx.execute(sa.insert(tables.second_opinions).values(dataclasses.asdict(opinion)))
