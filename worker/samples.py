"""The samples of a lease in training order, read shard by shard while training goes on.

The order is a function of the run's seed and the lease's ranges alone; which shards are cached changes nothing.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.order import ShardRange, sample_order
from diffusion_at_home.data.shards import Sample, decode_images, read_shard
from diffusion_at_home.errors import DataError, LeaseLost
from worker.blobs import BlobFetcher, BlobRef
from worker.stop import Interrupted
from worker.trainer import Batch

_MEMORY_BYTES: Final = 512 * 2**20
"""For shards that were read lately; the current one is kept whatever its size."""


@dataclass(frozen=True, slots=True)
class _Shard:
    samples: list[Sample]
    images_NCHW: Tensor | None
    """Decoded, where that takes little memory."""
    num_bytes: int


class LeaseSamples:
    """Reads the shards of one run."""

    def __init__(self, data: DataManifest, blobs: BlobFetcher, *, batch_images: int, seed: int) -> None:
        """`seed` is the run's."""
        self._data = data
        self._blobs = blobs
        self._batch_images = batch_images
        self._seed = seed
        self._shards: OrderedDict[int, _Shard] = OrderedDict()

    def batches(self, ranges: Sequence[ShardRange], interrupt: threading.Event) -> Iterator[Batch]:
        """The samples of `ranges` in order, batch_images at a time and the rest at the end.

        Ends early if `interrupt` is set while a shard is waited for. Raises as `BlobFetcher.have`.
        """
        picks = self._picks(ranges)
        try:
            while batch := list(itertools.islice(picks, self._batch_images)):
                yield self._batch(batch, interrupt)
        except Interrupted:
            return
        except DataError as error:  # its digest is right: the fault is the operator's and not this machine's
            raise LeaseLost(f"a shard of the run cannot be read ({error})", "unreadable_shard") from None

    def _picks(self, ranges: Sequence[ShardRange]) -> Iterator[tuple[int, int]]:
        """(shard, position in its file) of each sample."""
        for part in ranges:
            order = sample_order(self._seed, part.epoch, part.shard, self._data.train[part.shard].num_samples)
            for position in order[part.start : part.start + part.count]:
                yield part.shard, position

    def _batch(self, picks: Sequence[tuple[int, int]], interrupt: threading.Event) -> Batch:
        images: list[Tensor] = []
        captions: list[str] = []
        for index, group in itertools.groupby(picks, key=lambda pick: pick[0]):
            shard = self._shard(index, interrupt)
            positions = [position for _, position in group]
            samples = [shard.samples[position] for position in positions]
            images.append(self._decode(samples) if shard.images_NCHW is None else shard.images_NCHW[positions])
            captions += [sample.caption for sample in samples]
        return Batch(torch.cat(images), captions)

    def _shard(self, index: int, interrupt: threading.Event) -> _Shard:
        if index not in self._shards:
            self._shards[index] = self._read(index, interrupt)
        self._shards.move_to_end(index)
        while len(self._shards) > 1 and sum(shard.num_bytes for shard in self._shards.values()) > _MEMORY_BYTES:
            self._shards.popitem(last=False)
        return self._shards[index]

    def _read(self, index: int, interrupt: threading.Event) -> _Shard:
        entry = self._data.train[index]
        with self._blobs.have(BlobRef(entry.sha256, entry.size_bytes), interrupt) as path:
            samples = read_shard(path, entry)
        decoded_bytes = 4 * self._data.channels * self._data.height * self._data.width * len(samples)
        if entry.size_bytes + decoded_bytes > _MEMORY_BYTES // 4:
            return _Shard(samples, None, entry.size_bytes)
        return _Shard(samples, self._decode(samples), entry.size_bytes + decoded_bytes)

    def _decode(self, samples: Sequence[Sample]) -> Tensor:
        return decode_images(samples, width=self._data.width, height=self._data.height, channels=self._data.channels)
