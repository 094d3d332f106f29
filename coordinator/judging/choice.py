"""Which checkpoint is judged next: a pure function of what has been exported, judged and tried.

One is due when a multiple of `every_images` lies between the checkpoint before it and itself, whatever has become of that
one, so it does not depend on what is deleted. The newest comes first, since it is what people wait for, and older ones
afterwards; one that is no longer offered when its turn comes stays without a judgement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from coordinator.records import Checkpoint
from diffusion_at_home.runspec import RunSpec

MOST_TRIES: Final = 3
"""At one checkpoint: what fails so often fails always."""


def to_judge(
    exported: Sequence[Checkpoint],
    every_images: int,
    *,
    offered: Collection[str],
    judged: Collection[str],
    failures: Mapping[str, int],
) -> list[Checkpoint]:
    """Those of `exported` (all that ever were, oldest first) that are still to be judged, in that order.

    `offered` and `judged` are names, `failures` tries that came to nothing by name.
    """
    if every_images == 0:
        return []
    due, before = list[Checkpoint](), 0
    for checkpoint in exported:
        if checkpoint.images // every_images > before // every_images:
            due.append(checkpoint)
        before = checkpoint.images
    return [
        checkpoint
        for checkpoint in reversed(due)
        if checkpoint.name in offered
        and checkpoint.name not in judged
        and failures.get(checkpoint.name, 0) < MOST_TRIES
    ]


def why_not(spec: RunSpec, *, has_pictures: bool) -> str:
    """Why no checkpoint of a run is judged; empty if they are. `has_pictures`: judging.data was copied into the run."""
    if spec.config.judging.every_images == 0:
        return "judging.every_images is 0"
    if spec.data.latents is not None and not has_pictures:
        return "the run's data set holds latents, and judging.data names no pictures"
    return ""
