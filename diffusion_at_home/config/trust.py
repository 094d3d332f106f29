"""The parts of a run's config that say how far volunteers are believed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.values import Amount, Count, Fraction, Positive, Rate


class AggregationRule(StrEnum):
    """What a round's deltas come to; what each survives is told in docs/security.md."""

    MEAN = "mean"
    CENTERED_CLIP = "centered_clip"
    TRIMMED_MEAN = "trimmed_mean"
    MEDIAN = "median"


class EnrolmentMode(StrEnum):
    """Who may join."""

    OPEN = "open"
    INVITE = "invite"
    ALLOW_LIST = "allow_list"


class EnrolmentSection(Section):
    """Who may take part."""

    mode: EnrolmentMode = EnrolmentMode.OPEN
    """open: anybody. invite: who has a code of `dah coordinator invite`, once; then its key is known. allow_list: the workers
    of `dah coordinator allow`."""


class AuditSection(Section):
    """How much the operator's auditor recomputes (`dah coordinator audit`)."""

    first: Positive = 10
    """Contributions of a worker that are all recomputed, until so many in a row have agreed."""
    least_share: Fraction = 0.02
    """Of the contributions of a worker that has agreed for long."""
    shown_leaves: Annotated[int, Field(ge=0, le=16, strict=True)] = 8
    """Parts of its residual, of 4,096 numbers each, that a worker shows with each contribution where deltas carry error feedback.
    With 0 nobody can tell what it trained."""
    strikes: Positive = 2
    """Contributions that disagreed, in all, at which a worker is banned."""
    second_volunteer_share: Annotated[float, Field(ge=0, le=0.2, strict=True)] = 0.0
    """Share of a round's images that a second volunteer trains again without knowing; 0 is none. Not with codec.feedback."""


class GateSection(Section):
    """When the run goes back by itself."""

    enabled: bool = True
    """Whether it does."""
    most_rise: Rate = 0.25
    """Share by which held-out loss may rise above the median of the last three evaluations."""


class ScreeningSection(Section):
    """Whose delta is left out of its round, by comparison with the others', and how far newcomers are believed."""

    enabled: bool = True
    """Whether contributions are compared at all."""
    least_workers: Annotated[int, Field(ge=3, strict=True)] = 4
    """In a round; of fewer nobody can tell who is the odd one."""
    most_length: Annotated[float, Field(gt=1, strict=True)] = 4.0
    """Times the round's median: what is longer, or as many times shorter, is left out. Lengths are for equal images."""
    least_cosine: Fraction = 0.25
    """Share of the round's median cosine to the sum of the others: what agrees less than that is left out."""
    copy_cosine: Fraction = 0.95
    """Cosine between two deltas from which on the later one is a copy."""
    newcomer_leases: Count = 10
    """Contributions that have counted, from which on a worker is no newcomer."""
    newcomer_share: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.2
    """Most of a round's weight that all newcomers have together, once there is anybody else."""
    warnings: Positive = 3
    """Contributions in a row that did not count, at which a worker gets no leases for some rounds."""


class AggregationSection(Section):
    """How a round's deltas become one."""

    rule: AggregationRule = AggregationRule.MEAN
    """mean, centered_clip, trimmed_mean or median; the last two are taken of each weight by itself."""
    clip: Amount = 1.5
    """Times the round's median length, for equal images: a longer delta is scaled down to that; 0 scales nothing."""
    trim: Annotated[float, Field(ge=0, lt=0.5, strict=True)] = 0.25
    """Share of the contributions that trimmed_mean leaves out of each weight, at either end."""


class ReleaseSection(Section):
    """Who signs the run's checkpoints. Told in docs/security.md."""

    public_key: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Ed25519 key in hex that `dah checkpoint key new` has made on another machine than the coordinator's; empty names none."""
