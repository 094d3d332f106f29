"""How the coordinator says no: a named reason, one sentence, and when to come back."""

from __future__ import annotations

from datetime import timedelta

from diffusion_at_home.refusals import short_name
from diffusion_at_home.rpc.coordinator_pb2 import Refusal


class Refused(Exception):
    """Raised anywhere below the service, which turns it into the status that the refusal stands for."""

    def __init__(self, refusal: Refusal, sentence: str, retry_after: timedelta | None = None) -> None:
        super().__init__(sentence)
        self.refusal = refusal
        self.retry_after = retry_after

    @property
    def name(self) -> str:
        """The stable name: `round_closed`."""
        return short_name(self.refusal)
