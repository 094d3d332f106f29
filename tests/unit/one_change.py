"""Single changes of a ledger, which stores them by the batch."""

from __future__ import annotations

from coordinator.books import Changes
from coordinator.data_pool import DataPool
from coordinator.ledger import Ledger
from coordinator.records import Contribution, Lease


def grant(ledger: Ledger, lease: Lease, pool: DataPool) -> Lease:
    """Store a new lease; returns it with its number."""
    return ledger.store(Changes(granted=[lease]), pool).granted[0]


def accept(ledger: Ledger, contribution: Contribution, pool: DataPool) -> Contribution:
    """Store a contribution; returns it with its number."""
    return ledger.store(Changes(accepted=[contribution]), pool).accepted[0]
