"""The real pictures that drawn ones are compared with, read from a data set shard by shard.

Memory grows with the number of pictures asked for, not with the data set, except for one hash of each caption.

Shapes: N pictures, T side of a thumbnail, F features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.evaluation.distances import Floats
from diffusion_at_home.evaluation.features import Encoder, squared
from diffusion_at_home.evaluation.levels import to_levels, to_unit

THUMBNAIL: Final = 64
"""Largest side (pixels) at which real pictures are kept; on it pixels are compared."""

_CHUNK: Final = 64
"""Pictures decoded at once."""
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class RealPictures:
    """Some pictures of one split, chosen by a seed, as squares."""

    captions: tuple[str, ...]
    """The main one of each."""
    thumbnails_NCTT: Tensor
    """RGB, uint8."""

    def features(self, encoder: Encoder) -> Floats:
        """(N, F)."""
        return encoder.features(to_unit(self.thumbnails_NCTT))


class KnownCaptions:
    """All captions of the training split, further ones included, and their words."""

    def __init__(self) -> None:
        self._captions = set[int]()
        self._words = set[str]()

    def add(self, caption: str) -> None:
        """One more."""
        self._captions.add(hash(_words(caption)))
        self._words.update(_words(caption))

    def composes(self, caption: str) -> bool:
        """Whether `caption` is new although each of its words is known."""
        words = _words(caption)
        return bool(words) and hash(words) not in self._captions and self._words.issuperset(words)


def thumbnail_side(manifest: DataManifest) -> int:
    """Side (pixels) of the thumbnails of a data set: that of its largest picture, within 32 and `THUMBNAIL`."""
    return min(THUMBNAIL, max(32, *(max(entry.size) for entry in (*manifest.train, *manifest.held_out))))


def read_real(
    folder: Path,
    entries: Sequence[ShardEntry],
    *,
    side: int,
    most: int,
    seed: int,
    hear: Callable[[Sequence[str]], None] = lambda _: None,
) -> RealPictures:
    """At most `most` pictures of the shards `entries`, chosen by `seed`; `hear` hears of all captions of every sample.

    Raises `DataError` if a shard is missing or damaged.
    """
    total = sum(entry.num_samples for entry in entries)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    chosen = set(order[:most].tolist())
    captions, parts, position = list[str](), list[Tensor](), 0
    for entry in entries:
        samples = read_shard(folder / entry.name, entry)
        for sample in samples:
            hear((sample.caption, *sample.further_captions))
        wanted = [sample for index, sample in enumerate(samples, start=position) if index in chosen]
        position += len(samples)
        captions += [sample.caption for sample in wanted]
        for start in range(0, len(wanted), _CHUNK):
            pictures_BCHW = decode_images(wanted[start : start + _CHUNK], entry.size, 3)
            parts.append(to_levels(squared(pictures_BCHW, side)))
    empty = torch.empty(0, 3, side, side, dtype=torch.uint8)
    return RealPictures(tuple(captions), torch.cat([empty, *parts]))


def _words(caption: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(caption.casefold()))
