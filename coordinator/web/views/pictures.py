"""What each checkpoint drew for the run's fixed prompts, through time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.judging.work import GRID_NAME
from coordinator.ledger import Ledger
from coordinator.web import words
from coordinator.web.previews import preview_url
from coordinator.web.thinning import thinned
from diffusion_at_home.checkpoint.listing import file_path

MOST_PICTURES: Final = 100


@dataclass(frozen=True, slots=True)
class Picture:
    """One checkpoint's."""

    checkpoint: str
    """Its name."""
    images: int
    """Trained."""
    url: str
    preview: str
    """The same in fewer bytes."""
    told: str
    """What is on it, for who does not see it."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """All that are kept, or as many as anybody looks at, evenly spread."""

    prompts: tuple[str, ...]
    """A row of the picture each."""
    grids: tuple[Picture, ...]
    """Oldest first."""


def read_pictures(ledger: Ledger, prompts: Sequence[str]) -> Pictures:
    """A checkpoint that is offered has its grid with it; one that is not any more, if it was judged, with the judgement."""
    offered = {checkpoint.name for checkpoint in ledger.checkpoints()}
    judged = {name for name, sheets in ledger.sheets().items() if GRID_NAME in sheets}
    found = [
        Picture(
            checkpoint=checkpoint.name,
            images=checkpoint.images,
            url=_url(checkpoint.name, offered=checkpoint.name in offered),
            preview=preview_url(checkpoint.name),
            told=_told(checkpoint.images, prompts),
        )
        for checkpoint in ledger.exported()
        if checkpoint.name in offered | judged
    ]
    return Pictures(tuple(prompts), tuple(thinned(found, MOST_PICTURES)))


def _url(name: str, *, offered: bool) -> str:
    return file_path(name, GRID_NAME) if offered else f"/judgements/{name}/{GRID_NAME}"


def _told(images: int, prompts: Sequence[str]) -> str:
    rows = f", a row each for: {'; '.join(prompts)}" if prompts else ""
    return f"Pictures drawn after {words.number(images)} images of training{rows}"
