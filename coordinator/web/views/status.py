"""Whether all is well with the run's coordinator: its parts, what waits, its disk, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coordinator.problems import Problem
from coordinator.status import JudgingStatus, LiveStatus
from coordinator.web import words
from coordinator.web.sources import DiskNow, Sources
from diffusion_at_home import PROTOCOL_VERSION, __version__


class Health(StrEnum):
    """Of a part."""

    WORKS = "works"
    RESTS = "rests"
    TROUBLED = "troubled"


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the coordinator."""

    name: str
    health: Health
    sentence: str


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits, or is being carried."""

    name: str
    now: int
    most: int | None
    """None is no limit."""


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused calls since this process started."""

    reason: str
    sentence: str
    count: int


@dataclass(frozen=True, slots=True)
class StatusView:
    """The page for who looks after the run."""

    software: str
    protocol: int
    started_at_ms: int
    version: int
    problems: tuple[Problem, ...]
    """The oldest first."""
    components: tuple[Component, ...]
    queues: tuple[Queue, ...]
    disk: DiskNow | None
    """None until it has been looked at."""
    refusals: tuple[Refusals, ...]


REFUSAL_WORDS: Final = {
    "version_mismatch": "another protocol version: one side has to be upgraded",
    "malformed": "a call that is not as the protocol wants it",
    "bad_signature": "a signature that does not prove the key",
    "unknown_session": "a session that is not known here: the worker joins again",
    "unknown_lease": "a lease that is not this worker's",
    "lease_expired": "handed in after its lease was taken back",
    "round_closed": "handed in after its round had closed",
    "wrong_size": "a delta of the wrong size",
    "wrong_digest": "bytes that are not those that were announced",
    "undecodable": "a delta that cannot be decoded",
    "not_finite": "a delta with a number that is infinite or none",
    "wrong_images": "more images than were leased",
    "wrong_offset": "an upload that goes on from the wrong place",
    "storage_full": "the disk is full",
    "shutting_down": "the coordinator was about to stop",
    "duplicate": "handed in twice",
    "busy": "too many at once: asked to come back later",
    "banned": "the worker is banned",
    "wrong_residual": "a delta whose error feedback does not fit what its worker kept",
    "not_invited": "without an invitation that is good",
}
"""By the short name of a refusal, for people."""


def refusal_words(reason: str) -> str:
    """What the refusal of that short name is, for people."""
    return REFUSAL_WORDS.get(reason, reason.replace("_", " "))


def status_view(sources: Sources) -> StatusView:
    """As of now."""
    live, doors = sources.live(), sources.admission
    return StatusView(
        software=__version__,
        protocol=PROTOCOL_VERSION,
        started_at_ms=live.recovery.at_ms,
        version=sources.next_round() - 1,
        problems=live.problems,
        components=_components(live),
        queues=(
            Queue("Machines that wait for work", sources.waiting(), sources.spec.config.server.max_waiting),
            Queue("Contributions coming in", doors.uploads.num_taken, doors.uploads.number),
            Queue("Files going out", doors.downloads.num_taken, doors.downloads.number),
            Queue("Checkpoints that wait to be judged", live.judging.waiting, None),
        ),
        disk=sources.disk(),
        refusals=tuple(
            Refusals(reason, refusal_words(reason), count)
            for reason, count in sorted(live.refusals.items(), key=lambda one: -one[1])
        ),
    )


def _components(live: LiveStatus) -> tuple[Component, ...]:
    troubled = {problem.kind for problem in live.problems}
    storage = troubled & {"storage_full", "storage_soon", "quota_exceeded", "damaged"}
    return (
        _rounds(live),
        Component(
            "Storage",
            Health.TROUBLED if storage else Health.WORKS,
            "see the problems" if storage else "takes what is written",
        ),
        _judge(live.judging, troubled="judging_failed" in troubled),
    )


def _rounds(live: LiveStatus) -> Component:
    if live.complete:
        return Component("Rounds", Health.RESTS, "the run has all its images")
    if live.round_number is None:
        return Component("Rounds", Health.WORKS, "the next version is being made")
    if not live.workers:
        return Component("Rounds", Health.RESTS, f"round {live.round_number:,} is open, and no machine is there")
    return Component("Rounds", Health.WORKS, f"round {live.round_number:,} is open")


def _judge(judging: JudgingStatus, *, troubled: bool) -> Component:
    if judging.off:
        return Component("Judge", Health.RESTS, f"is off: {judging.off}")
    if troubled:
        return Component("Judge", Health.TROUBLED, "could not judge a checkpoint: see the problems")
    if judging.checkpoint:
        since = f", since {words.moment(judging.since_ms)}"
        return Component("Judge", Health.WORKS, f"looks at what {judging.checkpoint} draws{since}")
    return Component("Judge", Health.WORKS, "has judged all that is due")
