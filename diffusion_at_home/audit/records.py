"""What a run publishes of the leases of a closed round, and of the way to a version: all that a lease is recomputed from.

Pages of JSON below the run's address. No address, name, token or hardware of a worker is in them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from diffusion_at_home.config.run import Codec
from diffusion_at_home.config.toml import Section
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.lease_terms import LeaseTerms

MAX_PAGE_BYTES: Final = 4 * 2**20
"""A longer answer is refused before it is read."""

PAGE_LEASES: Final = 256
"""Most leases of one page."""

MAX_STEPS: Final = 4096
"""Most blobs on the way to a version; one that is farther off is not offered."""

_MOST_RANGES: Final = 4096

_Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_HexOrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Small = Annotated[int, Field(ge=0, lt=2**32)]


class _Public(Section):
    """Unknown keys are ignored: a newer coordinator may add some, and must be understood all the same."""

    model_config: ClassVar[ConfigDict] = ConfigDict(**{**Section.model_config, "extra": "ignore"})


class RangeRecord(_Public):
    """Consecutive samples of one shard in one epoch's order."""

    epoch: _Small
    shard: _Small
    """Index in the data manifest's train shards."""
    start: _Small
    """First sample, in the epoch's order of the shard."""
    count: _Small


class LeaseRecord(_Public):
    """A lease and the contribution that its worker handed in."""

    lease_id: _Count
    round: _Count
    """In which the contribution was collected; a late one's base is older than its round's."""
    worker_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """First 16 hex digits of the sha256 of the public key."""
    public_key: _Hex
    """Ed25519."""
    base_version: _Count
    base_digest: _Hex
    """Of the weights of that version."""
    ranges: Annotated[tuple[RangeRecord, ...], Field(max_length=_MOST_RANGES)]
    """What was leased, in training order."""
    seed: _Count
    learning_rate: float
    """Inner rate after the run's schedule."""
    codec: Codec
    images: _Count
    """Trained, by the worker's word: a prefix of the ranges."""
    sha256: _Hex
    """Of the contribution, served at /blobs/<sha256> as long as the run keeps it."""
    size_bytes: _Count
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")]
    """The worker's, hex: see `diffusion_at_home.identity.Handed`. Empty where software without signatures took it in."""
    weights: KeptWeights | None
    """How the worker kept its weights, by its signed word; None where older software did not ask, whose signatures bind less."""
    weight: float
    """In the round's mean; 0 where it was left out, or trains another one again."""
    left_out: Annotated[str, Field(max_length=32)]
    """Why; empty where it counts."""
    residual_before: _HexOrNone = ""
    """Where deltas carry error feedback: what its worker committed to of the residual in it, empty if none was; see
    `diffusion_at_home.audit.residual`."""
    residual_after: _HexOrNone = ""
    """The same of what its encoding left."""
    shown_sha256: _HexOrNone = ""
    """Of what was shown of both, after the rest was fixed: a blob (`diffusion_at_home.audit.shown`), empty if nothing was."""
    shown_bytes: _Count = 0
    second_of: _Count = 0
    """The lease of another worker that this one trains again, which is told once its round has closed; 0 of others."""

    @property
    def terms(self) -> LeaseTerms:
        """What its worker must have been granted."""
        ranges = (ShardRange(epoch=r.epoch, shard=r.shard, start=r.start, count=r.count) for r in self.ranges)
        return LeaseTerms(self.base_version, self.base_digest, self.seed, self.learning_rate, tuple(ranges))


class RoundPage(_Public):
    """Some of the contributions of a closed round, by lease: /rounds/<number>.json?after=<lease>."""

    run_id: str
    round: _Count
    software: Annotated[str, Field(max_length=64)]
    """Version of the coordinator's code."""
    leases: Annotated[tuple[LeaseRecord, ...], Field(max_length=PAGE_LEASES)]
    """With numbers above `after`, ascending."""
    next: _Count | None
    """What the next page is asked for with as `after`; None on the last one."""


class LeasePage(_Public):
    """The contribution of one lease of a closed round: /leases/<number>.json."""

    run_id: str
    software: Annotated[str, Field(max_length=64)]
    lease: LeaseRecord


class StepKind(StrEnum):
    """What a blob on the way to a version is."""

    SNAPSHOT = "snapshot"
    """All weights."""
    UPDATE = "update"
    """The difference from the version before."""


class StepRecord(_Public):
    """One blob on the way."""

    version: _Count
    """The one it leads to."""
    kind: StepKind
    sha256: _Hex
    size_bytes: _Count
    weights_digest: _Hex
    """Of the weights of `version`."""


class VersionRecord(_Public):
    """A published version and how to come to its weights: /versions/<number>.json."""

    run_id: str
    version: _Count
    images: _Count
    """Accepted into it since the start of the run."""
    weights_digest: _Hex
    reachable: bool
    """Whether a way leads there over blobs that are kept."""
    from_seed: bool
    """Whether it begins with version 0, which the specification and its seed make, and not with a snapshot."""
    steps: Annotated[tuple[StepRecord, ...], Field(max_length=MAX_STEPS)]
    """In order; none of a way from the seed to version 0."""


def round_path(number: int, after: int = 0) -> str:
    """Of a `RoundPage`, below the run's address."""
    return f"/rounds/{number}.json?after={after}"


def lease_path(lease_id: int) -> str:
    """Of a `LeasePage`."""
    return f"/leases/{lease_id}.json"


def version_path(version: int) -> str:
    """Of a `VersionRecord`."""
    return f"/versions/{version}.json"
