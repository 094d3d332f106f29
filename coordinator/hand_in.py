"""Decides whether a contribution counts, with which weight, and that it counts once. Writes into a draft, stores nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from coordinator.batches import Again
from coordinator.books import Books, Draft
from coordinator.records import Contribution, Lease, LeaseId, LeaseState, now_ms
from coordinator.refused import Refused
from diffusion_at_home.data.order import split_ranges
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

_SOON: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Work:
    """A contribution that has been screened and stored, not yet accepted."""

    lease: Lease
    sha256: str
    size_bytes: int
    images: int
    mean_loss: float
    train_ms: int
    signature: str
    """Hex."""
    weights: KeptWeights
    residual_before: str = ""
    """As of `Contribution`, and so are the following."""
    residual_after: str = ""
    shown_sha256: str = ""
    shown_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reception:
    """What the coordinator takes contributions for now."""

    round_number: int | None
    """The open round."""
    late_weight: float
    """Of an image that missed the last round and counts in this one."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger has of what comes in."""

    ended: Mapping[LeaseId, tuple[Contribution | None, Lease | None]]
    """Leases that are not active."""
    residuals: Mapping[WorkerId, str]
    """What the newest contribution left of each worker that commits to residuals."""


def count_in(draft: Draft, work: Work, known: Known, reception: Reception) -> Contribution | Again | None:
    """The receipt that the same bytes have already; None once they are in `draft`, whose ledger makes the receipt.

    AGAIN where the draft itself has just ended the lease: what that comes to is known once it is stored. Raises `Refused`.
    """
    lease_id, pool = work.lease.lease_id, draft.pool
    if lease_id in draft.active:  # a late one's data has been given back already
        if not work.lease.is_second:
            pool = pool.give_back(split_ranges(work.lease.ranges, work.images)[1])
    elif draft.touches(lease_id) or lease_id not in known.ended:
        return Again.AGAIN
    else:
        before, stored = known.ended[lease_id]
        if before is not None:
            return same_or_refused(before, work.sha256)
        assert stored is not None
        work = replace(work, lease=stored)
    weight = image_weight(draft, work.lease, reception)
    if work.residual_after:
        if any(before.worker_id == work.lease.worker_id for before in draft.accepted):
            return Again.AGAIN
        check_chain(work.residual_before, known.residuals[work.lease.worker_id])
    assert reception.round_number is not None
    if work.lease.is_second:
        weight = 0.0  # the first one's data is in the mean once
    draft.accept(_contribution(work, reception.round_number, weight * work.images), pool)
    return None


def image_weight(books: Books, lease: Lease, reception: Reception) -> float:
    """Of one image of `lease` now. Raises `Refused` when it no longer counts."""
    match lease.state:
        case LeaseState.ACTIVE if lease.lease_id in books.active:
            return 1.0
        case LeaseState.SUBMITTED:
            raise Refused(Refusal.REFUSAL_DUPLICATE, f"lease {lease.lease_id} already has its contribution")
        case LeaseState.EXPIRED | LeaseState.RELEASED:
            raise Refused(Refusal.REFUSAL_LEASE_EXPIRED, f"lease {lease.lease_id} has ended: its data went to others")
    if lease.lease_id in books.late:
        if reception.round_number is None:
            raise Refused(Refusal.REFUSAL_BUSY, "the next round, in which this counts, opens soon", _SOON)
        return reception.late_weight
    raise Refused(Refusal.REFUSAL_ROUND_CLOSED, f"round {lease.round_number} has closed without lease {lease.lease_id}")


def check_chain(residual_before: str, newest: str) -> None:
    """Refuse a delta in which there is another residual than its worker's `newest` contribution left: none is made up."""
    if residual_before not in ("", newest):
        sentence = "the residual in this delta is not what this worker's newest contribution left: drop it"
        raise Refused(Refusal.REFUSAL_WRONG_RESIDUAL, sentence)


def same_or_refused(before: Contribution, sha256: str) -> Contribution:
    """The receipt again for the same bytes; other bytes for the same lease are refused."""
    if before.sha256 != sha256:
        raise Refused(Refusal.REFUSAL_DUPLICATE, f"lease {before.lease_id} already has another contribution")
    return before


def _contribution(work: Work, round_number: int, weight: float) -> Contribution:
    return Contribution(
        contribution_id=0,
        lease_id=work.lease.lease_id,
        worker_id=work.lease.worker_id,
        round_number=round_number,
        first_range=work.lease.ranges[0],
        sha256=work.sha256,
        size_bytes=work.size_bytes,
        images=work.images,
        weight=weight,
        mean_loss=work.mean_loss,
        train_ms=work.train_ms,
        accepted_at_ms=now_ms(),
        signature=work.signature,
        weights=work.weights.value,
        residual_before=work.residual_before,
        residual_after=work.residual_after,
        shown_sha256=work.shown_sha256,
        shown_bytes=work.shown_bytes,
    )
