"""What an evaluation found: every number between what real pictures and what worthless ones get; and the history of them.

A *floor* is the low end of what a number can sensibly be, a *ceiling* the high end. For distances real pictures make the floor
and noise the ceiling, for accuracies it is the other way round.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion_at_home.errors import storage_errors
from diffusion_at_home.evaluation.places import HISTORY_NAME


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its bounds."""

    value: float
    floor: float
    ceiling: float


@dataclass(frozen=True, slots=True)
class Distance:
    """How far drawn pictures lie from real ones."""

    value: float
    spread: float
    """Standard deviation over random halves of the drawn pictures."""
    floor: float
    """Of as many real pictures, against the other real ones."""
    ceiling: float
    """Of as many pictures of noise."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often a drawn picture leads back to the picture of its caption."""

    value: float
    chance: float
    """What guessing gives."""
    noise: float
    """A floor: of pictures of noise."""
    shuffled: float
    """A floor: of the drawn pictures, each under another's caption."""
    ceiling: float
    """Of real pictures: another one of the caption, or else a slightly changed view of the only one."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Accuracies among the candidates."""

    prompts: int
    candidates: int
    top1: Accuracy
    top5: Accuracy


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near drawn pictures are to training pictures (root mean square difference)."""

    drawn: float
    """Median distance to the nearest training picture."""
    fresh: float
    """The same of real pictures that nobody trained on."""
    copies: float
    """The same of slightly changed views of training pictures: what one draws who knows them by heart."""
    ratio: float
    """drawn / fresh: well under 1 is memorised."""
    near_limit: float
    """All but 1 % of training pictures are farther from each other."""
    near_share: Figure
    """Drawn pictures within near_limit of a training picture; floor: of fresh ones, ceiling: of copies."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Held-out loss of one set of weights; None is not finite."""

    mean: float | None
    bins: tuple[float | None, ...]
    """By `times`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked: figures of different ones are not comparable."""

    pictures: int
    unseen_pictures: int
    seed: int
    steps: int
    guidance: float
    real_pictures: int
    """Compared with."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Of one checkpoint on one data set by one encoder."""

    checkpoint: str
    run_id: str
    version: int
    images: int
    """Trained."""
    weights: str
    """raw or ema."""
    data: str
    """Digest of the data set."""
    own_data: bool
    """Whether it is what the run trained on."""
    encoder: str
    encoder_sha256: str
    asked: Asked
    times: tuple[float, ...]
    """Of the bins of the loss."""
    loss: dict[str, Loss]
    """By weights; empty where the data set holds nothing to take it on."""
    frechet: Distance
    kernel: Distance
    retrieval: Retrieval
    unseen: Retrieval | None
    """Of captions whose words were all trained, but never together; None where the data set has too few."""
    memorised_features: Nearness
    memorised_pixels: Nearness
    seconds: float

    def rows(self) -> list[tuple[str, float | None, float | None, float | None]]:
        """For people: what it is, its value, floor and ceiling."""
        rows: list[tuple[str, float | None, float | None, float | None]] = [
            (f"held-out loss, {weights}", loss.mean, None, None) for weights, loss in self.loss.items()
        ]
        rows += [
            (name, distance.value, distance.floor, distance.ceiling)
            for name, distance in (("Frechet distance", self.frechet), ("kernel distance", self.kernel))
        ]
        for kind, found in (("trained", self.retrieval), ("unseen", self.unseen)):
            for top, accuracy in () if found is None else ((1, found.top1), (5, found.top5)):
                floor = max(accuracy.noise, accuracy.shuffled, accuracy.chance)
                name = f"{kind} captions found, top {top}"
                rows.append((name, accuracy.value, floor, accuracy.ceiling))
        for space, near in (("features", self.memorised_features), ("pixels", self.memorised_pixels)):
            rows.append((f"distance to training over fresh, {space}", near.ratio, None, None))
            share = near.near_share
            rows.append((f"near a training picture, {space}", share.value, share.floor, share.ceiling))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite are None."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def append_history(folder: Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Add `result` to the history in `folder`; returns all of it by images, the last word on each checkpoint's weights.

    A line that a broken-off write cut short is passed over. Raises `StorageError`.
    """
    path = folder / HISTORY_NAME
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if before.endswith("\n") or not before else "\n") + json.dumps(result) + "\n")
    lines = [*filter(None, map(_line, before.splitlines())), result]
    newest = {(line.get("run_id"), line.get("checkpoint"), line.get("weights")): line for line in lines}
    return sorted(newest.values(), key=lambda line: int(line["images"]))


def _line(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("images"), int) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
