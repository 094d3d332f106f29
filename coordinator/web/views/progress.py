"""How far the run is and how fast it goes: what moves from second to second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.page_queries import PageQueries
from coordinator.records import Version, now_ms
from coordinator.status import LiveStatus
from coordinator.web.pace import Published, images_per_second, seconds_left
from coordinator.web.sources import Sources

_PACE_VERSIONS: Final = 30
"""Over whose rounds the pace is taken: long enough to be steady, short enough to notice who comes and goes."""


@dataclass(frozen=True, slots=True)
class RoundNow:
    """The round that is being collected."""

    number: int
    target_images: int
    accepted_images: int
    leased_images: int
    """Out now."""
    seconds_to_close: float | None
    """At the latest; None while its clock stands still."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What moves from second to second."""

    version: int
    images: int
    """In the newest version."""
    total_images: int
    images_per_second: float | None
    """Over the last rounds; None before there are two versions."""
    seconds_left: float | None
    """At that pace."""
    workers: int
    """Heard lately."""
    complete: bool
    round: RoundNow | None
    """None between two rounds, and once the run is complete."""
    problems: int
    """Present; the status names them."""


async def read_progress(sources: Sources) -> Progress:
    """The quick part, which is sent whenever it changes."""
    versions = await sources.ledger.run(PageQueries.latest_versions, _PACE_VERSIONS + 1)
    return progress(versions, sources.live(), sources.spec.config.run.total_images, now_ms())


def progress(versions: Sequence[Version], live: LiveStatus, total_images: int, at_ms: int) -> Progress:
    """Of the newest `versions`, oldest first, at the time `at_ms`."""
    newest = versions[-1]
    published = [Published(version.images, version.published_at_ms) for version in versions]
    rate = images_per_second(published, newest.published_at_ms if live.complete else at_ms)
    return Progress(
        version=newest.version,
        images=newest.images,
        total_images=total_images,
        images_per_second=rate,
        seconds_left=0.0 if live.complete else seconds_left(total_images - newest.images, rate),
        workers=len(live.workers),
        complete=live.complete,
        round=None
        if live.round_number is None
        else RoundNow(
            number=live.round_number,
            target_images=live.target_images,
            accepted_images=live.accepted_images,
            leased_images=live.leased_images,
            seconds_to_close=live.seconds_to_close,
        ),
        problems=len(live.problems),
    )
