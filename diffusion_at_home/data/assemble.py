"""Assembling: pictures of all parts, in the order of the source, become shards of one size bucket each.

A function of the parts and the settings alone. Sources are often sorted, and training reads shard by shard: so a shard is not
filled with what came one after another: some shards' worth are put in the order of their names' hashes first. What waits is a
place in a part, so memory is bounded by the number of buckets and the samples of a shard, whatever the size of the data.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from diffusion_at_home.data.duplicates import DuplicateIndex, PictureHash
from diffusion_at_home.data.manifest import ShardEntry, Size
from diffusion_at_home.data.parts import PartIndex, PartReader, PictureEntry, Place
from diffusion_at_home.data.report import Tally
from diffusion_at_home.data.shards import Sample, write_shard
from diffusion_at_home.data.sources.source import Reason
from diffusion_at_home.errors import DataError

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_NUM_SHOWN: Final = 40
_MADE_KEY: Final = re.compile(r".*-[0-9a-f]{16}")


class Split(StrEnum):
    """What a shard is for; also how its name begins."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A picture on its way into a shard."""

    key: str
    rank: int
    """Of the hash of its name, in [0, 2^64)."""
    suffix: str
    place: Place


@dataclass(slots=True)
class _Bin:
    """The next shard of one split and bucket."""

    pictures: list[_Waiting] = field(default_factory=list)
    image_bytes: int = 0


class Assembler:
    """Fills shards in `out` from parts in `parts`.

    Use as a context manager. If its source does not say, a hash of its name decides whether a picture is held out; where
    that holds out nothing before the first train shard is full, it is the waiting picture of the least hash.
    """

    def __init__(
        self,
        out: Path,
        parts: Path,
        *,
        held_out_share: float,
        duplicates: DuplicateIndex,
        shard_samples: int,
        shard_bytes: int,
        mixed_shards: int,
    ) -> None:
        """Args: `mixed_shards` is how many shards' worth waits before they are written; 1 keeps the source's order."""
        self.tally = Tally()
        """What became of every picture."""
        self._out = out
        self._held_out_share = held_out_share
        self._duplicates = duplicates
        self._shard_samples = shard_samples
        self._shard_bytes = shard_bytes
        self._mixed_shards = mixed_shards
        self._reader = PartReader(parts)
        self._num_parts = 0
        self._bins = dict[tuple[Split, Size], _Bin]()
        self._shards: dict[Split, list[ShardEntry]] = {split: [] for split in Split}
        self._has_held_out = held_out_share == 0
        self._shown = list[tuple[int, Size, _Waiting]]()

    def __enter__(self) -> Assembler:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def add(self, part: PartIndex) -> None:
        """Sort the pictures of the next part, and write the shards that are full. Raises `DataError`, `StorageError`."""
        for refused in part.refused:
            self.tally.refuse(refused.name, refused.reason, refused.detail)
        for entry in part.pictures:
            if self._duplicates.seen_before(PictureHash(bytes.fromhex(entry.hash))):
                self.tally.refuse(entry.name, Reason.DUPLICATE)
            else:
                self._place(entry)
        self._num_parts += 1
        self._shown = heapq.nsmallest(_NUM_SHOWN, self._shown, key=lambda shown: shown[0])

    def finish(self) -> tuple[tuple[ShardEntry, ...], tuple[ShardEntry, ...]]:
        """Write the shards that are not full: all of train, and all that are held out.

        Raises:
            DataError: no picture is left to train on.
            StorageError: the disk is full.
        """
        for split in (Split.TRAIN, Split.HELD_OUT):  # the last of train may still become the first held out
            for size in sorted(size for filling, size in self._bins if filling is split):
                self._write_all(split, size)
        train, held_out = self._shards[Split.TRAIN], self._shards[Split.HELD_OUT]
        if not train and held_out:
            raise DataError("every picture that is left is held out: add pictures, or lower held_out_share")
        return tuple(train), tuple(held_out)

    def shown(self) -> list[tuple[Sample, Size]]:
        """Some pictures for people to look at, spread over the whole."""
        return [(self._sample(picture), size) for _, size, picture in self._shown]

    def _place(self, entry: PictureEntry) -> None:
        rank = int.from_bytes(hashlib.blake2b(entry.name.encode(), digest_size=8, person=b"dah-held-out-1").digest())
        is_held_out = rank < self._held_out_share * 2**64 if entry.held_out is None else entry.held_out
        split = Split.HELD_OUT if is_held_out else Split.TRAIN
        self._has_held_out |= is_held_out
        self.tally.keep(entry)
        place = Place(self._num_parts, entry.offset, entry.image_bytes, entry.facts_bytes)
        waiting = _Waiting(_key(entry.name), rank, entry.suffix, place)
        self._shown.append((rank, entry.size, waiting))
        filling = self._bins.setdefault((split, entry.size), _Bin())
        filling.pictures.append(waiting)
        filling.image_bytes += entry.image_bytes
        if len(filling.pictures) >= self._mixed_shards * self._shard_samples or (
            filling.image_bytes >= self._mixed_shards * self._shard_bytes
        ):
            self._write_all(split, entry.size)

    def _write_all(self, split: Split, size: Size) -> None:
        """Write all that waits for shards of `split` and `size`."""
        while (split, size) in self._bins:
            self._write(split, size)

    def _write(self, split: Split, size: Size) -> None:
        """Write the next shard of `split` and `size` from what waits for it."""
        if split is Split.TRAIN and not self._has_held_out:
            self._hold_out_one()
        waiting = self._bins.pop((split, size)).pictures
        if self._mixed_shards > 1:
            waiting.sort(key=lambda picture: picture.rank)
        pictures = self._next_shard(waiting)
        if rest := waiting[len(pictures) :]:
            self._bins[split, size] = _Bin(rest, sum(picture.place.image_bytes for picture in rest))
        if pictures:
            shards = self._shards[split]
            path = self._out / f"{split}-{len(shards):05d}.tar"
            shards.append(write_shard(path, map(self._sample, pictures), size))
            self.tally.write(split, size, len(pictures))

    def _next_shard(self, waiting: list[_Waiting]) -> list[_Waiting]:
        """As many of the first ones as make a shard."""
        image_bytes = 0
        for count, picture in enumerate(waiting[: self._shard_samples], start=1):
            image_bytes += picture.place.image_bytes
            if image_bytes >= self._shard_bytes:
                return waiting[:count]
        return waiting[: self._shard_samples]

    def _hold_out_one(self) -> None:
        """Move the waiting picture of the least hash, unless it is the only one."""
        train = [(size, filling) for (split, size), filling in self._bins.items() if split is Split.TRAIN]
        if sum(len(filling.pictures) for _, filling in train) < 2:
            return
        rank, size = min((picture.rank, size) for size, filling in train for picture in filling.pictures)
        source = self._bins[Split.TRAIN, size]
        chosen = next(picture for picture in source.pictures if picture.rank == rank)
        source.pictures.remove(chosen)
        source.image_bytes -= chosen.place.image_bytes
        self._bins[Split.HELD_OUT, size] = _Bin([chosen], chosen.place.image_bytes)
        self._has_held_out = True

    def _sample(self, picture: _Waiting) -> Sample:
        image, facts = self._reader.read(picture.place)
        return Sample(
            key=picture.key,
            image=image,
            suffix=picture.suffix,
            caption=facts.captions[0],
            source=facts.source,
            license=facts.license,
            author=facts.author,
            further_captions=facts.captions[1:],
        )


def _key(name: str) -> str:
    """What `name` is called in shards: itself where that may be, else what may stay of it and a hash; unique as it is."""
    if _PLAIN_NAME.fullmatch(name) and not _MADE_KEY.fullmatch(name):
        return name
    stem = re.sub(r"[^A-Za-z0-9]+", "-", name.rpartition("/")[2].partition(".")[0]).strip("-")[:60]
    return f"{stem or 'picture'}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
