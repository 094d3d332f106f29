"""What of the data is not leased now: a cursor through the epochs, and what came back. Immutable; it is stored whole.

Every sample is handed out once an epoch; what comes back undone is handed out again before the cursor moves on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusion_at_home.data.order import DataCursor, ShardRange, shard_positions, split_ranges


@dataclass(frozen=True, slots=True)
class DataPool:
    """The undone part of the data set's endless sequence of epochs."""

    cursor: DataCursor
    returned: tuple[ShardRange, ...] = ()
    """Given back; handed out again in the order of the data."""

    def take(
        self, num_images: int, *, seed: int, shard_sizes: Sequence[int]
    ) -> tuple[tuple[ShardRange, ...], DataPool]:
        """Ranges of exactly `num_images` samples, the earliest in the data's order first, and the pool without them.

        So leases that come back whole are granted again as they were, with the same seeds.
        """
        places = {
            part: (part.epoch, shard_positions(seed, part.epoch, len(shard_sizes))[part.shard], part.start)
            for part in self.returned
        }
        again, rest = split_ranges(sorted(self.returned, key=places.__getitem__), num_images)
        missing = num_images - sum(r.count for r in again)
        fresh, cursor = self.cursor.take(missing, seed=seed, shard_sizes=shard_sizes) if missing else ([], self.cursor)
        return (*again, *fresh), DataPool(cursor, tuple(rest))

    def give_back(self, ranges: Sequence[ShardRange]) -> DataPool:
        """The pool with `ranges` undone again."""
        return replace(self, returned=tuple(sorted((*self.returned, *ranges))))

    def to_json(self) -> dict[str, Any]:
        """Plain data for the ledger."""
        return {
            "cursor": [self.cursor.epoch, self.cursor.position, self.cursor.offset],
            "returned": [[r.shard, r.epoch, r.start, r.count] for r in self.returned],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DataPool:
        """What `to_json` wrote."""
        epoch, position, offset = data["cursor"]
        returned = tuple(ShardRange(shard=s, epoch=e, start=a, count=n) for s, e, a, n in data["returned"])
        return cls(DataCursor(epoch=epoch, position=position, offset=offset), returned)
