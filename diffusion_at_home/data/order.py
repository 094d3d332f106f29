"""The order in which the run passes over its data: a pure function of seed, epoch and shard, the same on every machine.

Every epoch is a permutation of the shards, and within each shard a permutation of its samples, both by sorting hashes, so
that no library's random generator is part of the protocol. Every sample comes exactly once an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache


@dataclass(frozen=True, slots=True, order=True)
class ShardRange:
    """Consecutive samples of one shard in one epoch's order; sorts by epoch, then shard, whatever the epoch's order of those."""

    epoch: int
    shard: int
    """Index in the manifest's train shards."""
    start: int
    """First sample, in the epoch's order of the shard."""
    count: int


@dataclass(frozen=True, slots=True)
class DataCursor:
    """A place in the endless sequence of epochs; the first is (0, 0, 0)."""

    epoch: int
    position: int
    """In the epoch's order of the shards."""
    offset: int
    """In that shard's order of the samples."""

    def take(
        self, num_images: int, *, seed: int, shard_sizes: Sequence[int]
    ) -> tuple[tuple[ShardRange, ...], DataCursor]:
        """The next `num_images` samples as ranges, and the place behind them.

        Args:
            num_images: at least 0; may span shards and epochs.
            seed: of the run.
            shard_sizes: samples of each train shard, each at least 1.
        """
        ranges: list[ShardRange] = []
        epoch, position, offset = self.epoch, self.position, self.offset
        while num_images > 0:
            shard = shard_order(seed, epoch, len(shard_sizes))[position]
            count = min(num_images, shard_sizes[shard] - offset)
            ranges.append(ShardRange(epoch=epoch, shard=shard, start=offset, count=count))
            num_images -= count
            offset += count
            if offset == shard_sizes[shard]:
                position, offset = position + 1, 0
            if position == len(shard_sizes):
                epoch, position = epoch + 1, 0
        return tuple(ranges), DataCursor(epoch, position, offset)


@lru_cache(maxsize=8)
def shard_order(seed: int, epoch: int, num_shards: int) -> tuple[int, ...]:
    """The shards in the order of `epoch`."""
    return _by_hash(f"dah-shards-1\n{seed}\n{epoch}", num_shards)


@lru_cache(maxsize=8)
def shard_positions(seed: int, epoch: int, num_shards: int) -> tuple[int, ...]:
    """Where each shard comes in the order of `epoch`."""
    order = shard_order(seed, epoch, num_shards)
    return tuple(sorted(range(num_shards), key=order.__getitem__))


def sample_order(seed: int, epoch: int, shard: int, num_samples: int) -> tuple[int, ...]:
    """The samples of `shard`, as positions in its file, in the order of `epoch`."""
    return _by_hash(f"dah-samples-1\n{seed}\n{epoch}\n{shard}", num_samples)


def split_ranges(
    ranges: Sequence[ShardRange], num_images: int
) -> tuple[tuple[ShardRange, ...], tuple[ShardRange, ...]]:
    """The first `num_images` samples of `ranges` (all, if there are fewer), and the rest."""
    head: list[ShardRange] = []
    tail: list[ShardRange] = []
    for index, part in enumerate(ranges):
        if num_images == 0:
            tail.extend(ranges[index:])
            break
        taken = min(num_images, part.count)
        num_images -= taken
        head.append(replace(part, count=taken))
        if taken < part.count:
            tail.append(replace(part, start=part.start + taken, count=part.count - taken))
    return tuple(head), tuple(tail)


def _by_hash(context: str, num_items: int) -> tuple[int, ...]:
    start = hashlib.blake2b(context.encode(), digest_size=16)

    def key(item: int) -> bytes:
        copy = start.copy()
        copy.update(b"\n%d" % item)
        return copy.digest()

    return tuple(sorted(range(num_items), key=key))
