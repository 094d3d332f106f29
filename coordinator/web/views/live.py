"""What moves on a page that is open, as text that is ready to be shown: the page has it from here, and so have its updates."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.web import words
from coordinator.web.views.progress import Progress


@dataclass(frozen=True, slots=True)
class LiveWords:
    """By what a page calls it."""

    version: str
    images: str
    total: str
    percent: str
    speed: str
    left: str
    workers: str
    round: str
    round_images: str
    round_left: str
    problems: str


@dataclass(frozen=True, slots=True)
class LiveNumbers:
    """Of the bars, each between 0 and 1."""

    done: float
    accepted: float
    """Of the round's target."""
    leased: float
    """The same, of what is out or accepted."""


@dataclass(frozen=True, slots=True)
class LiveView:
    """One update."""

    version: int
    words: LiveWords
    numbers: LiveNumbers


def live_view(progress: Progress) -> LiveView:
    """What to show of it."""
    now, done = progress.round, progress.images / progress.total_images
    accepted = now.accepted_images / now.target_images if now else 0.0
    leased = now.leased_images / now.target_images if now else 0.0
    return LiveView(
        version=progress.version,
        words=LiveWords(
            version=words.number(progress.version),
            images=words.number(progress.images),
            total=words.number(progress.total_images),
            percent=words.percent(done),
            speed=words.figure(progress.images_per_second),
            left=_left(progress),
            workers=words.number(progress.workers),
            round=f"Round {words.number(now.number)}" if now else "Between rounds",
            round_images=_round_images(progress),
            round_left=_round_left(progress),
            problems=words.counted(progress.problems, "problem") if progress.problems else "",
        ),
        numbers=LiveNumbers(min(1.0, done), min(1.0, accepted), min(1.0, accepted + leased)),
    )


def _left(progress: Progress) -> str:
    if progress.complete:
        return "complete"
    return "not known yet" if progress.seconds_left is None else f"about {words.duration(progress.seconds_left)}"


def _round_images(progress: Progress) -> str:
    now = progress.round
    if now is None:
        return "the run has all its images" if progress.complete else "the next version is being made"
    return (
        f"{now.accepted_images:,} of {now.target_images:,} images have come in, {now.leased_images:,} are being trained"
    )


def _round_left(progress: Progress) -> str:
    now = progress.round
    if now is None:
        return ""
    if now.seconds_to_close is None:
        return "its clock starts with the first lease"
    return f"closes in {words.duration(now.seconds_to_close)} at the latest"
