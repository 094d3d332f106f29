"""What a worker hands in that has not trained its lease, or not all of it, or not that one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.audit.leases import Bench, Deltas, Lease
from worker.trainer import Batch


def steps_needed(lengths: Sequence[int]) -> set[int]:
    """After how many steps deltas must be kept so that `cheats` can be tried on leases of `lengths`."""
    return {max(1, int(share * length)) for length in lengths for share in (1.0, 0.9, 0.5)}


def cheats(bench: Bench, lease: Lease, honest: Deltas, lengths: Sequence[int]) -> Iterator[tuple[str, int, Tensor]]:
    """The name of each cheat, the steps of the lease it is for, and its delta; `honest` are those of the lease."""
    for length in lengths:
        own = honest[length]
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(lease.seed + length))
        half, most = honest[max(1, length // 2)], honest[max(1, int(0.9 * length))]
        yield "noise", length, noise * float(own.norm() / noise.norm())
        yield "sign_flip", length, -own
        yield "scaled_1.5", length, 1.5 * own
        yield "scaled_1.1", length, 1.1 * own
        yield "half_the_steps", length, half
        yield "half_the_steps_stretched", length, half * float(own.norm() / half.norm())
        yield "nine_tenths_of_the_steps", length, most
    other = {
        "half_of_each_batch": replace(lease, batches=[_half(batch) for batch in lease.batches]),
        "other_shard": replace(lease, batches=lease.others),
        "shuffled_captions": replace(lease, batches=_shuffled(lease)),
        "other_seed": replace(lease, seed=lease.seed + 10**6),
        "copy_of_another": replace(lease, batches=lease.others, seed=lease.seed + 10**6),
        "stale_base": replace(lease, base=lease.before),
    }
    for name, changed in other.items():
        deltas = bench.honest(changed)
        for length in lengths:
            yield name, length, deltas[length]


def _half(batch: Batch) -> Batch:
    half = len(batch.captions) // 2
    return replace(batch, images_BCHW=batch.images_BCHW[:half], captions=batch.captions[:half])


def _shuffled(lease: Lease) -> list[Batch]:
    generator = torch.Generator().manual_seed(lease.seed)
    shuffled = []
    for batch in lease.batches:
        order = torch.randperm(len(batch.captions), generator=generator).tolist()
        shuffled.append(replace(batch, captions=[batch.captions[index] for index in order]))
    return shuffled
