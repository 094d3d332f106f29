"""What every checkpoint of a run is asked: captions and noise that depend on the data set and a seed alone.

*Trained* captions are those of training pictures. *Unseen* ones are held-out captions that are new although each of their words
occurs in training captions: who draws them has understood words, not memorised lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from diffusion_at_home.evaluation.gallery import KnownCaptions

FEWEST_UNSEEN: Final = 5
"""Fewer unseen captions say nothing, and are not asked."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Captions to draw, each once with its own noise."""

    trained: tuple[str, ...]
    unseen: tuple[str, ...]
    """Empty where the data set has too few of them."""
    seed: int
    """Of the noise."""


def ask(
    trained: Iterable[str], held_out: Iterable[str], known: KnownCaptions, *, pictures: int, seed: int
) -> Questions:
    """`pictures` trained captions, repeated if the data set has fewer, and at most as many unseen ones."""
    by_hash = _in_order(trained, seed)
    unseen = [caption for caption in _in_order(held_out, seed) if known.composes(caption)][:pictures]
    return Questions(
        trained=tuple(islice(cycle(by_hash), pictures)),
        unseen=tuple(unseen) if len(unseen) >= FEWEST_UNSEEN else (),
        seed=seed,
    )


def _in_order(captions: Iterable[str], seed: int) -> list[str]:
    """Each caption once, in an order that leaves the first ones where they are when others are added or go."""

    def key(caption: str) -> bytes:
        return hashlib.blake2b(f"dah-questions-1\n{seed}\n{caption}".encode(), digest_size=16).digest()

    return sorted(set(captions), key=key)
