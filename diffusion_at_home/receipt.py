"""A receipt: the run's word for what it has received of a worker. Whoever has the run's key can check it, for ever.

It says what came and in which round it is meant to count. Whether it was left out when that round closed, it cannot know.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from diffusion_at_home.config.toml import Section
from diffusion_at_home.signing_key import PublicKey, Signature, is_signed

_CONTEXT: Final = "dah-receipt-v1"

_Number = Annotated[int, Field(gt=0, lt=2**63)]


class Received(Section):
    """What a receipt says."""

    run_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
    """`RunSpec.run_id`."""
    contribution_id: _Number
    """Its number in the run's ledger."""
    worker_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """`diffusion_at_home.identity.WorkerId`."""
    lease_id: _Number
    """That it was trained in."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its bytes (hex)."""
    images: _Number
    """Trained."""
    round: _Number
    """That it counts in, unless it is left out."""

    def message(self) -> bytes:
        """The signed bytes: a line each, the last one without its end."""
        fields = (
            self.run_id,
            self.contribution_id,
            self.worker_id,
            self.lease_id,
            self.sha256,
            self.images,
            self.round,
        )
        return "\n".join((_CONTEXT, *map(str, fields))).encode()


class Receipt(Section):
    """What a worker keeps."""

    received: Received
    public_key: PublicKey
    """The run's, by its specification (`RunSpec.receipt_key`)."""
    signature: Signature

    @property
    def holds(self) -> bool:
        """Whether `public_key` has signed it: whose key that is must be known from elsewhere."""
        return is_signed(bytes.fromhex(self.public_key), self.received.message(), bytes.fromhex(self.signature))
