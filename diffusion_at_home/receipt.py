"""A receipt: the run's word for what it has received of a worker. Whoever has the run's key can check it, for ever.

It says what came and in which round it is meant to count. Whether it was left out when that round closed, it cannot know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.signing_key import PublicKey, Signature, is_signed

_CONTEXT: Final = "dah-receipt-v1"
_MOST_LINE_BYTES: Final = 4096
"""A longer line is taken apart, and none of its parts is a receipt."""

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


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file of receipts."""

    number: int
    """From 1."""
    receipt: Receipt | None
    """None where it is none."""
    problem: str
    """What is wrong with it; empty if it holds."""


def read_receipts(path: Path, key: str = "") -> Iterator[Line]:
    """The receipts in `path`, a JSON object a line, each once.

    `key` (hex) is the run's, from where it is trusted; empty takes the one that each names. Raises `ConfigError` if the file
    cannot be read.
    """
    seen: set[tuple[str, int]] = set()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE_BYTES), b""), start=1):
                checked = _checked(number, line, key)
                if checked.receipt is not None and not checked.problem:
                    name = (checked.receipt.received.run_id, checked.receipt.received.contribution_id)
                    if name in seen:
                        continue
                    seen.add(name)
                yield checked
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): name a file of receipts") from None


def _checked(number: int, line: bytes, key: str) -> Line:
    try:
        receipt = Receipt.model_validate_json(line)
    except ValidationError as error:
        return Line(number, None, f"is no receipt ({first_mistake(error)})")
    if key and receipt.public_key != key:
        return Line(number, receipt, f"is by the foreign key {receipt.public_key}")
    if not receipt.holds:
        return Line(number, receipt, f"is forged, its key {receipt.public_key[:16]}... has not signed it")
    return Line(number, receipt, "")
