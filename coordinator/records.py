"""The facts of a run that outlive the process: what the ledger stores, one frozen record a row.

Times are milliseconds since 1970 by the coordinator's clock; they are for people and never decide anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId

LeaseId = NewType("LeaseId", int)

DAY_MS: Final = 86_400_000


class LeaseState(StrEnum):
    """What became of a lease."""

    ACTIVE = "active"
    SUBMITTED = "submitted"
    RELEASED = "released"
    EXPIRED = "expired"
    MISSED = "missed"
    """Its round closed without it."""


class RoundState(StrEnum):
    """Where a round is in its life."""

    OPEN = "open"
    CLOSING = "closing"
    """Its contributions are fixed; the next version is a function of them."""
    CLOSED = "closed"


class Weights(StrEnum):
    """Which of a version's two sets of weights."""

    RAW = "raw"
    EMA = "ema"


@dataclass(frozen=True, slots=True)
class Worker:
    """A key that has joined."""

    worker_id: WorkerId
    public_key: bytes
    token_sha256: str
    """Of the latest session's token; the token itself is never stored."""
    signed_at_ms: int
    """Of the latest Join by the worker's clock: a Join must be newer, so a recorded one cannot be replayed."""
    display_name: str
    device: str
    device_name: str
    num_devices: int
    memory_bytes: int
    software_version: str
    joined_at_ms: int
    """First Join."""
    invite: str = ""
    """The invitation it first came with, by its sha256 (hex); empty without one."""
    team: str = ""
    """That it says it is of; empty of none."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One worker's right and duty to train on `ranges` from `base_version` with `seed`."""

    lease_id: LeaseId
    worker_id: WorkerId
    base_version: int
    """The round that it belongs to is base_version + 1."""
    ranges: tuple[ShardRange, ...]
    seed: int
    quota_images: int
    learning_rate: float
    state: LeaseState
    granted_at_ms: int
    second_of: LeaseId = LeaseId(0)
    """The lease that is trained again by this one, and whose delta alone may count; 0 of any other."""

    @property
    def is_second(self) -> bool:
        """Whether it trains another lease again."""
        return self.second_of != 0

    @property
    def round_number(self) -> int:
        """The round this lease was made for."""
        return self.base_version + 1


@dataclass(frozen=True, slots=True)
class Contribution:
    """An accepted delta."""

    contribution_id: int
    lease_id: LeaseId
    worker_id: WorkerId
    round_number: int
    """The round it counts in."""
    first_range: ShardRange
    """Of its lease: decides the order of summation."""
    sha256: str
    size_bytes: int
    images: int
    weight: float
    """`images`, less where it came late, and 0 of what was trained again, which is in no mean."""
    mean_loss: float
    train_ms: int
    accepted_at_ms: int
    signature: str
    """The worker's, in hex: see `diffusion_at_home.identity.Handed`."""
    residual_before: str = ""
    """Commitment (hex) to the residual that is in it: see `diffusion_at_home.audit.residual`; empty if none is."""
    residual_after: str = ""
    """The same to what its encoding left; empty without error feedback."""
    shown_sha256: str = ""
    """Blob of the leaves that were shown of both; empty if none were."""
    shown_bytes: int = 0
    weights: str = ""
    """How its worker kept its weights, by its own word (`KeptWeights`); empty where it was not asked, and has signed less."""


class Fault(StrEnum):
    """Why a lease's delta does not count."""

    NONE = ""
    NOT_FINITE = "not_finite"
    """A number was infinite or none; it was refused when it came."""
    MISFIT = "misfit"
    """What was shown of its residual did not fit; it was refused when it came."""
    UNCHANGED = "unchanged"
    """It has no length."""
    COPIED = "copied"
    """Another's, or an older one, all but the same."""
    OUTLIER = "outlier"
    """Far longer or shorter than the round's."""
    OPPOSED = "opposed"
    """It does not agree with the round's."""
    BANNED = "banned"
    """Its worker was banned before the round was computed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a lease's delta counts in its round."""

    lease_id: LeaseId
    worker_id: WorkerId
    round_number: int
    weight: float
    """In the round's mean; 0 when it is left out."""
    scale: float
    """What the delta is multiplied by before the mean is taken."""
    norm: float
    """Its length."""
    cosine: float | None
    """To the sum of the other workers'; None if there are none."""
    fault: Fault


@dataclass(frozen=True, slots=True)
class Counted:
    """A contribution that counts in its round, and how."""

    contribution: Contribution
    weight: float
    """In the round's mean."""
    scale: float
    """What the delta is multiplied by before the mean is taken."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a worker has shown so far."""

    counted: int
    """Contributions that counted."""
    faults_in_a_row: int
    """Leases since, whose delta did not."""
    last_fault_round: int
    """0 if there is none."""


class ActionKind(StrEnum):
    """What an operator does to a run, or the gate and the auditor in an operator's stead."""

    INVITE = "invite"
    """Whoever has the code may join: subject is its sha256 (hex)."""
    UNINVITE = "uninvite"
    ALLOW = "allow"
    """Put a worker on the list; subject is its id, as of all that follow."""
    DISALLOW = "disallow"
    BAN = "ban"
    UNBAN = "unban"
    REVOKE = "revoke"
    """Forget the worker's session: it joins again with its key, and whoever else had the token cannot."""
    DISTRUST = "distrust"
    """A worker is a newcomer again: what has counted of it until now vouches for nothing."""
    ROLLBACK = "rollback"
    """Go back to an older version, whose number is the subject: the next version is that one again."""
    DRAIN = "drain"
    """Grant no leases until a RESUME."""
    RESUME = "resume"
    PUBLISH = "publish"
    """Make a checkpoint of the newest version, which had the subject's number then, or a higher one now."""
    NOTE = "note"
    """Changes nothing: it stands in the log of what was done."""


@dataclass(frozen=True, slots=True)
class Action:
    """One deed of the operator; what holds now is what all of them come to."""

    action_id: int
    """0 until the ledger numbers it."""
    kind: ActionKind
    subject: str
    note: str
    """For people; of a ban, what its worker is told."""
    at_ms: int
    uses: int = 0
    """Of an invitation: how many workers may come with it."""
    until_ms: int = 0
    """When an invitation or a ban ends; 0 is never."""


@dataclass(frozen=True, slots=True)
class Audited:
    """A contribution that was recomputed."""

    lease_id: LeaseId
    worker_id: WorkerId
    agrees: bool
    cosine: float
    """Of what was handed in to what it should have been."""
    length_ratio: float
    at_ms: int


class Opinion(StrEnum):
    """What a second volunteer's delta says of the first one's."""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    """One of the two is not what the lease comes to."""
    NONE = "none"
    """They cannot be compared, or are too far apart for the one and too close for the other."""


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """Of a lease that was trained by two."""

    lease_id: LeaseId
    """The second one's."""
    worker_id: WorkerId
    first_lease_id: LeaseId
    first_worker_id: WorkerId
    opinion: Opinion
    cosine: float
    """Of the first one's delta to the second one's; 0 where they were not compared."""
    length_ratio: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class Round:
    """Round n starts from version n - 1 and ends in version n."""

    number: int
    target_images: int
    state: RoundState
    opened_at_ms: int
    close_reason: str
    """Empty while open."""


@dataclass(frozen=True, slots=True)
class Version:
    """Published weights."""

    version: int
    images: int
    """Images accepted into it since the start of the run."""
    weights_digest: str
    update_sha256: str
    """Blob from version - 1 to this; empty for version 0."""
    update_bytes: int
    snapshot_sha256: str
    """Blob of this version whole; empty when there is none."""
    snapshot_bytes: int
    published_at_ms: int
    back_to: int | None = None
    """Of a rollback: the version that this one is again. It has a snapshot and no update."""
    action_id: int | None = None
    """Of a rollback: the action that it carries out."""

    @property
    def parent(self) -> int:
        """The version that it was made from."""
        return self.version - 1 if self.back_to is None else self.back_to


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out loss of one version's raw or averaged weights."""

    version: int
    weights: Weights
    images: int
    mean: float
    bins: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An exported version."""

    name: str
    version: int
    images: int
    default_weights: Weights
    held_out_loss: float
    size_bytes: int
    manifest_sha256: str
    created_at_ms: int


class Withdrawn(StrEnum):
    """Why a checkpoint is no longer offered."""

    THINNED = "thinned"
    """To keep the run folder within its quota."""
    DAMAGED = "damaged"
    UNDONE = "undone"
    """The run went back to a version before it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a checkpoint's pictures are worth, in short; a figure that is not finite is None."""

    checkpoint: str
    """Its name."""
    images: int
    """Trained."""
    encoder_sha256: str
    """Of the encoder that compared: the same for a whole run."""
    frechet: float | None
    """Distance to training pictures in its features; lower is better."""
    kernel: float | None
    """The same by kernels, which does not depend on how many pictures are compared."""
    retrieval: float | None
    """Share of drawn pictures that lead back to the picture of their caption."""
    unseen: float | None
    """The same of captions that are new, word for word known; None where the data set has too few."""


@dataclass(frozen=True, slots=True)
class Judgement(Judged):
    """All that was found, and what was drawn."""

    result: str
    """JSON: `diffusion_at_home.evaluation.result.EvaluationResult.to_json`."""
    sheets: dict[str, str]
    """sha256 (hex) by file name, of the pictures in the folder `judgements/<checkpoint>` that are not damaged."""
    judged_at_ms: int


@dataclass(frozen=True, slots=True)
class FailedJudgement:
    """A try to judge a checkpoint that came to nothing."""

    checkpoint: str
    number: int
    """Of the tries at this checkpoint, from 1."""
    reason: str
    """A sentence for people."""
    failed_at_ms: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """A whole state that is kept, from which everything that came later can be computed again, as from the seed."""

    version: int
    digest: str
    """`diffusion_at_home.outer.state.state_digest` of its file."""
    made_at_ms: int


@dataclass(frozen=True, slots=True)
class HeldDelta:
    """A blob of one or more contributions: the delta, or what was shown of its residual."""

    sha256: str
    round_number: int
    """The last one in which it counts."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """A run in numbers."""

    contributions: int
    contributors: int
    """Workers that have any."""
    uplink_bytes: int
    """Of all contributions."""
    downlink_bytes: int
    """Of all updates, for one worker that took each."""
    joined: int
    """Keys that ever joined."""
    active_leases: int


@dataclass(frozen=True, slots=True)
class RefusedCalls:
    """Calls of one worker that were refused on one day, for one reason."""

    worker_id: WorkerId
    day: int
    """Since 1970, in UTC."""
    reason: str
    """Short name of the refusal."""
    calls: int


def now_ms() -> int:
    """Milliseconds since 1970, for records."""
    return time.time_ns() // 1_000_000
