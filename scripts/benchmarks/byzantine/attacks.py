"""What attackers hand in instead of what they were asked for.

An attack sees everything: its own honest delta, those of the honest workers of the round, and what it handed in before.
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
    """What honest training gave."""
    honest: Sequence[Tensor]
    """Of the honest workers in this round."""
    before: Sequence[Tensor]
    """What it handed in in earlier rounds."""
    seed: int


@dataclass(frozen=True, slots=True)
class Attack:
    """Changes the data before training, the delta after it, or both."""

    hand_in: Callable[[Scene], Tensor] = lambda scene: scene.own
    data: Callable[[Batch, int], Batch] = lambda batch, _: batch
    """With a seed."""


def _noise(scene: Scene) -> Tensor:
    """As long as the honest delta."""
    noise = torch.randn(scene.own.shape, generator=torch.Generator().manual_seed(scene.seed))
    return noise * float(scene.own.norm() / noise.norm())


def _little_is_enough(scene: Scene) -> Tensor:
    """Baruch, Baruch and Goldberg 2019, arXiv:1902.06156: one deviation from the mean, where honest ones lie, too."""
    honest = torch.stack(tuple(scene.honest))
    return honest.mean(dim=0) - honest.std(dim=0)


def _shuffled(batch: Batch, seed: int) -> Batch:
    order = torch.randperm(len(batch.captions), generator=torch.Generator().manual_seed(seed)).tolist()
    return replace(batch, captions=[batch.captions[index] for index in order])


def _other_pictures(batch: Batch, seed: int) -> Batch:
    """A shard of something else: the same picture of noise for every caption."""
    noise = torch.rand(batch.images_BCHW.shape[1:], generator=torch.Generator().manual_seed(seed % 7))
    return replace(batch, images_BCHW=(2 * noise - 1).expand_as(batch.images_BCHW).contiguous())


ATTACKS: Final[dict[str, Attack]] = {
    "sign_flip": Attack(lambda scene: -scene.own),
    "sign_flip_x10": Attack(lambda scene: -10 * scene.own),
    "gaussian": Attack(_noise),
    "scale_1e6": Attack(lambda scene: 1e6 * scene.own),
    "nan": Attack(lambda scene: torch.full_like(scene.own, torch.nan)),
    "zeros": Attack(lambda scene: torch.zeros_like(scene.own)),
    "replay": Attack(lambda scene: scene.before[0] if scene.before else scene.own),
    "copy": Attack(lambda scene: scene.honest[0]),
    "wrong_shard": Attack(data=_other_pictures),
    "shuffled_captions": Attack(data=_shuffled),
    "inner_product": Attack(lambda scene: -torch.stack(tuple(scene.honest)).mean(dim=0)),
    "little_is_enough": Attack(_little_is_enough),
}
