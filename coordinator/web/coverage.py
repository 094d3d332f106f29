"""How much of the data this epoch has covered, shard by shard: a pure function of the pool, and of what is leased."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.data_pool import DataPool
from diffusion_at_home.data.order import ShardRange, shard_positions


@dataclass(frozen=True, slots=True)
class Cell:
    """One shard, or neighbours together where there are too many to show."""

    first: int
    """Number of the first shard."""
    shards: int
    images: int
    done: int
    """Trained in this epoch, and accepted."""
    out: int
    """Leased now."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the epoch that the run is in."""

    epoch: int
    """From 1 on."""
    images: int
    done: int
    out: int
    shards: int
    shards_done: int
    """Of which nothing is left, nor out."""
    from_before: int
    """Images of earlier epochs that came back undone and are still to be trained, or are being."""
    cells: tuple[Cell, ...]


def coverage(
    pool: DataPool, leased: Sequence[ShardRange], shard_sizes: Sequence[int], *, seed: int, most_cells: int
) -> Coverage:
    """Of the shards of `shard_sizes` images in the order that `seed` gives them, in at most `most_cells` cells.

    What is before the cursor is done, but for what came back and what is `leased` now.
    """
    epoch = pool.cursor.epoch
    positions = shard_positions(seed, epoch, len(shard_sizes))
    back, out = _by_shard(pool.returned, epoch), _by_shard(leased, epoch)
    done = [
        _passed(pool, position, size) - back[shard] - out[shard]
        for shard, (position, size) in enumerate(zip(positions, shard_sizes, strict=True))
    ]
    together = -(-len(shard_sizes) // most_cells)
    cells = tuple(
        Cell(
            first=first,
            shards=len(shard_sizes[first : first + together]),
            images=sum(shard_sizes[first : first + together]),
            done=sum(done[first : first + together]),
            out=sum(out[shard] for shard in range(first, first + together)),
        )
        for first in range(0, len(shard_sizes), together)
    )
    return Coverage(
        epoch=epoch + 1,
        images=sum(shard_sizes),
        done=sum(done),
        out=sum(out.values()),
        shards=len(shard_sizes),
        shards_done=sum(part == size for part, size in zip(done, shard_sizes, strict=True)),
        from_before=sum(part.count for part in (*pool.returned, *leased) if part.epoch < epoch),
        cells=cells,
    )


def _passed(pool: DataPool, position: int, size: int) -> int:
    """How far the cursor is into the shard at `position` of the epoch's order."""
    if position == pool.cursor.position:
        return pool.cursor.offset
    return size if position < pool.cursor.position else 0


def _by_shard(ranges: Sequence[ShardRange], epoch: int) -> Counter[int]:
    counts = Counter[int]()
    for part in ranges:
        if part.epoch == epoch:
            counts[part.shard] += part.count
    return counts
