"""What of a trial is compared: losses, and how long and whereto the delta points, group of tensors by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import torch
from pydantic import TypeAdapter
from torch import Tensor

from diffusion_at_home.wire.layout import Layout
from worker.selftest.trials import Trial, spread

KNOWN_ANSWER: Final = Path(__file__).with_name("known_answer.json")
"""What a sound machine finds; made with binary64 networks by `pytest tests/unit/test_selftest.py --rewrite-goldens`."""

_DIRECTION_SALT: Final = 2**17


class FigureKind(StrEnum):
    """How sharply a figure can be compared."""

    LENGTH = "length"
    """Norm of a part of the gradient, or a loss before any update: errors of single elements hardly show."""
    DIRECTION = "direction"
    """Product of a part of the gradient with fixed signs: errors of single elements show."""
    TRAINED = "trained"
    """What came out after updates, which amplify rounding: Adam takes whole steps along what is nearly zero."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number."""

    name: str
    kind: FigureKind
    value: float
    size: float
    """What an error is a share of: the value, or the norm of what was multiplied with signs."""


FIGURES: Final = TypeAdapter(list[Figure])
"""A known answer's file."""


def read_known_answer() -> list[Figure]:
    """The one that ships with this code."""
    return FIGURES.validate_json(KNOWN_ANSWER.read_bytes())


def figures_of(trial: Trial, layout: Layout, losses: Sequence[float], delta: Tensor) -> list[Figure]:
    """All figures of a lease, whose `delta` is (n,)."""
    length = FigureKind.LENGTH if trial.gradient else FigureKind.TRAINED
    figures = [Figure(f"{trial.name}: loss of step {step}", length, v, v) for step, v in enumerate(losses, start=1)]
    noun = "gradient" if trial.gradient else "change"
    delta, signs = delta.double(), spread(layout.num_elements, _DIRECTION_SALT).sign().double()
    for group, places in _groups(layout).items():
        part = delta[places]
        norm = float(part.norm())
        figures.append(Figure(f"{trial.name}: length of the {noun} of {group}", length, norm, norm))
        if trial.gradient:
            along = float(part @ signs[places])
            figures.append(
                Figure(f"{trial.name}: direction of the {noun} of {group}", FigureKind.DIRECTION, along, norm)
            )
    return figures


def _groups(layout: Layout) -> dict[str, Tensor]:
    """Places in the vector of all weights, by the first two words of the tensors' names."""
    groups: dict[str, list[Tensor]] = {}
    for slot in layout.slots:
        places = torch.arange(slot.offset, slot.offset + slot.num_elements)
        groups.setdefault(".".join(slot.name.split(".")[:2]), []).append(places)
    return {group: torch.cat(places) for group, places in groups.items()}
