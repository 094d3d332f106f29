"""What attackers hand in instead of what they were asked for.

An attack sees everything: its own delta, those of the honest workers of the round, and what it handed in before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from worker.trainer import Batch


@dataclass(frozen=True, slots=True)
class Scene:
    """What one attacker knows when it hands in; deltas are fp32 (n,)."""

    own: Tensor
    """What training its lease gave, or what it made of that."""
    honest: Sequence[Tensor]
    """Of the honest workers in this round."""
    before: Sequence[Tensor]
    """What it handed in in earlier rounds."""
    seed: int


@dataclass(frozen=True, slots=True)
class Attack:
    """Changes the lease before training, the delta after it, or both."""

    hand_in: Callable[[Scene], Tensor] = lambda scene: scene.own
    lease: Callable[[Sequence[Batch], int], Sequence[Batch]] = lambda batches, _: batches
    """With a seed."""


def _noise(scene: Scene) -> Tensor:
    """As long as the honest delta."""
    noise = torch.randn(scene.own.shape, generator=torch.Generator().manual_seed(scene.seed))
    return noise * float(scene.own.norm() / noise.norm())


def _little_is_enough(scene: Scene) -> Tensor:
    """Baruch, Baruch and Goldberg 2019, arXiv:1902.06156: one deviation from the mean, where honest ones lie, too."""
    honest = torch.stack(tuple(scene.honest))
    return honest.mean(dim=0) - honest.std(dim=0)


def _shuffled(batches: Sequence[Batch], seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    shuffled = []
    for batch in batches:
        order = torch.randperm(len(batch.captions), generator=generator).tolist()
        shuffled.append(replace(batch, captions=[batch.captions[index] for index in order]))
    return shuffled


def _other_pictures(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """A shard of something else: one picture of noise for every caption of a batch."""
    generator = torch.Generator().manual_seed(seed % 7)
    return [
        replace(
            batch,
            images_BCHW=(2 * torch.rand(batch.images_BCHW.shape[1:], generator=generator) - 1)
            .expand_as(batch.images_BCHW)
            .contiguous(),
        )
        for batch in batches
    ]


def _half(batches: Sequence[Batch], _seed: int) -> Sequence[Batch]:
    return batches[: max(1, len(batches) // 2)]


ATTACKS: Final[dict[str, Attack]] = {
    "sign_flip": Attack(lambda scene: -scene.own),
    "sign_flip_x10": Attack(lambda scene: -10 * scene.own),
    "gaussian": Attack(_noise),
    "scale_1e6": Attack(lambda scene: 1e6 * scene.own),
    "nan": Attack(lambda scene: torch.full_like(scene.own, torch.nan)),
    "zeros": Attack(lambda scene: torch.zeros_like(scene.own)),
    "replay": Attack(lambda scene: scene.before[0] if scene.before else scene.own),
    "copy": Attack(lambda scene: scene.honest[0]),
    "wrong_shard": Attack(lease=_other_pictures),
    "shuffled_captions": Attack(lease=_shuffled),
    "inner_product": Attack(lambda scene: -torch.stack(tuple(scene.honest)).mean(dim=0)),
    "little_is_enough": Attack(_little_is_enough),
    # Twice the images make a delta about 2^0.75 times as long.
    "lazy": Attack(lambda scene: 2**0.75 * scene.own, lease=_half),
}
