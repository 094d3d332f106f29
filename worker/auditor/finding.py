"""What an audit says of one contribution, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from diffusion_at_home.audit.agreement import Agreement
from diffusion_at_home.audit.records import LeaseRecord


class Outcome(StrEnum):
    """Of a recomputation."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNCHECKED = "cannot be checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """Of one lease."""

    record: LeaseRecord
    outcome: Outcome
    why: str
    """For people; ends a sentence that begins with the outcome."""
    agreement: Agreement | None = None
    """None where it did not come to that."""

    def __str__(self) -> str:
        record = self.record
        what = f"lease {record.lease_id} (round {record.round}, worker {record.worker_id}, {record.images} images)"
        left_out = f"; the run left it out as {record.left_out}" if record.left_out else ""
        return f"{what} {self.outcome}: {self.why}{left_out}"

    def plain(self) -> Mapping[str, Any]:
        """As it is printed."""
        record, found = self.record, self.agreement
        return {
            "lease": record.lease_id,
            "round": record.round,
            "worker": record.worker_id,
            "images": record.images,
            "left_out": record.left_out,
            "outcome": self.outcome.value,
            "why": self.why,
            "cosine": None if found is None else found.cosine,
            "length_ratio": None if found is None else found.length_ratio,
            "relative_error": None if found is None else found.relative_error,
            "exact": None if found is None else found.exact,
        }
