"""What each refusal of the protocol is as a gRPC status, and what it means for the worker that gets it: one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

from diffusion_at_home.errors import (
    Busy,
    DahError,
    LeaseLost,
    NotAdmitted,
    RetryCall,
    SessionLost,
    ShutOut,
    VersionMismatch,
)
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

REFUSAL_METADATA: Final = "dah-refusal"
"""Trailing metadata key under which the refusal's name travels."""

RETRY_AFTER_METADATA: Final = "dah-retry-after-ms"
"""Trailing metadata key of the milliseconds after which a refused call may be made again."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """One refusal on both sides of the wire."""

    status: grpc.StatusCode
    consequence: type[DahError]
    """What the worker's client raises."""


_Code = grpc.StatusCode

MEANINGS: Final[dict[Refusal, Meaning]] = {
    Refusal.REFUSAL_VERSION_MISMATCH: Meaning(_Code.FAILED_PRECONDITION, VersionMismatch),
    Refusal.REFUSAL_MALFORMED: Meaning(_Code.INVALID_ARGUMENT, NotAdmitted),
    Refusal.REFUSAL_BAD_SIGNATURE: Meaning(_Code.UNAUTHENTICATED, NotAdmitted),
    Refusal.REFUSAL_UNKNOWN_SESSION: Meaning(_Code.UNAUTHENTICATED, SessionLost),
    Refusal.REFUSAL_UNKNOWN_LEASE: Meaning(_Code.NOT_FOUND, LeaseLost),
    Refusal.REFUSAL_LEASE_EXPIRED: Meaning(_Code.FAILED_PRECONDITION, LeaseLost),
    Refusal.REFUSAL_ROUND_CLOSED: Meaning(_Code.FAILED_PRECONDITION, LeaseLost),
    Refusal.REFUSAL_WRONG_SIZE: Meaning(_Code.INVALID_ARGUMENT, LeaseLost),
    Refusal.REFUSAL_WRONG_DIGEST: Meaning(_Code.DATA_LOSS, LeaseLost),
    Refusal.REFUSAL_UNDECODABLE: Meaning(_Code.INVALID_ARGUMENT, LeaseLost),
    Refusal.REFUSAL_NOT_FINITE: Meaning(_Code.INVALID_ARGUMENT, LeaseLost),
    Refusal.REFUSAL_WRONG_IMAGES: Meaning(_Code.INVALID_ARGUMENT, LeaseLost),
    Refusal.REFUSAL_WRONG_OFFSET: Meaning(_Code.ABORTED, RetryCall),
    Refusal.REFUSAL_STORAGE_FULL: Meaning(_Code.RESOURCE_EXHAUSTED, Busy),
    Refusal.REFUSAL_SHUTTING_DOWN: Meaning(_Code.UNAVAILABLE, Busy),
    Refusal.REFUSAL_DUPLICATE: Meaning(_Code.ALREADY_EXISTS, LeaseLost),
    Refusal.REFUSAL_BUSY: Meaning(_Code.RESOURCE_EXHAUSTED, Busy),
    Refusal.REFUSAL_BANNED: Meaning(_Code.PERMISSION_DENIED, ShutOut),
    Refusal.REFUSAL_NOT_INVITED: Meaning(_Code.PERMISSION_DENIED, ShutOut),
    Refusal.REFUSAL_WRONG_RESIDUAL: Meaning(_Code.FAILED_PRECONDITION, LeaseLost),
}

LEFT_OUT: Final[dict[Refusal, str]] = {
    Refusal.REFUSAL_UNCHANGED: "it changed nothing",
    Refusal.REFUSAL_COPIED: "it was all but the same as another one",
    Refusal.REFUSAL_OUTLIER: "it was far longer or shorter than the others of its round",
    Refusal.REFUSAL_OPPOSED: "it did not agree with the others of its round",
}
"""Why a contribution did not count although it has its receipt, for people."""


def short_name(refusal: Refusal) -> str:
    """The refusal as people, metrics and ledgers write it: `round_closed`."""
    return Refusal.Name(refusal).removeprefix("REFUSAL_").lower()
