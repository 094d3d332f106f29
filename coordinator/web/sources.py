"""Where the pages have their facts from: everything is only read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.checkpoints import Checkpoints
from coordinator.ledger_thread import LedgerThread
from coordinator.status import LiveStatus
from diffusion_at_home.runspec import RunSpec


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
    live: Callable[[], LiveStatus]
    """What only the running process knows, now."""
    checkpoints: Checkpoints
