"""How to join: what a volunteer types, and what the run is, as far as that decides whether to."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.web.sources import Sources
from diffusion_at_home.config.trust import EnrolmentMode


@dataclass(frozen=True, slots=True)
class JoinView:
    """The page for volunteers."""

    address: str
    """Of the run, with the fingerprint of its certificate where it has one of its own."""
    pinned: bool
    """Whether it does."""
    enrolment: EnrolmentMode
    parameters: int
    lease_seconds: float
    """Longest that a round, and so a lease, takes."""
    data_name: str
    data_source: str
    data_license: str
    checkpoint_license: str


def join_view(sources: Sources) -> JoinView:
    """From the run's specification."""
    spec = sources.spec
    return JoinView(
        address=sources.address,
        pinned="#" in sources.address,
        enrolment=spec.config.enrolment.mode,
        parameters=sources.num_parameters,
        lease_seconds=spec.config.round.max_seconds,
        data_name=spec.data.name,
        data_source=spec.data.source,
        data_license=spec.data.license,
        checkpoint_license=spec.config.run.license,
    )
