"""What a run has trained on, out of its ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import count, takewhile

from coordinator.ledger import Ledger
from coordinator.records import Lease, LeaseId
from coordinator.run_folder import RunFolder
from diffusion_at_home.data.order import ShardRange, shard_order, split_ranges
from tests.unit.tiny_data import SHARD_SIZES

Sample = tuple[int, int, int]
"""Epoch, shard, place in the epoch's order of the shard."""


def assert_every_sample_once(folder: RunFolder) -> None:
    """Everything before the cursor was trained once, or lies in the pool to be handed out again, or is leased."""
    ledger = Ledger(folder.ledger, read_only=True)
    pool, done = ledger.pool(), Counter[Sample]()
    for number in range(1, ledger.newest_version().version + 2):
        for contribution in ledger.contributions(number):
            lease = ledger.lease(contribution.lease_id)
            assert lease is not None
            done.update(_samples(split_ranges(lease.ranges, contribution.images)[0]))
    open_samples = Counter(_samples([*pool.returned, *(r for lease in ledger.active_leases() for r in lease.ranges)]))
    ledger.close()
    epoch, position, offset = pool.cursor.epoch, pool.cursor.position, pool.cursor.offset
    handed_out = {s for e in range(epoch) for shard in range(len(SHARD_SIZES)) for s in _shard(e, shard)}
    order = shard_order(0, epoch, len(SHARD_SIZES))
    handed_out |= {s for shard in order[:position] for s in _shard(epoch, shard)}
    if offset:
        handed_out |= {(epoch, order[position], place) for place in range(offset)}
    assert done + open_samples == Counter(handed_out)
    assert epoch >= 1, "not one epoch was passed"


def leases_of(folder: RunFolder, worker_id: str) -> list[Lease]:
    """All that a worker ever had, oldest first."""
    ledger = Ledger(folder.ledger, read_only=True)
    every = takewhile(lambda lease: lease is not None, (ledger.lease(LeaseId(number)) for number in count(1)))
    found = [lease for lease in every if lease is not None and lease.worker_id == worker_id]
    ledger.close()
    return found


def _shard(epoch: int, shard: int) -> list[Sample]:
    return [(epoch, shard, place) for place in range(SHARD_SIZES[shard])]


def _samples(ranges: Iterable[ShardRange]) -> list[Sample]:
    return [(part.epoch, part.shard, part.start + step) for part in ranges for step in range(part.count)]
