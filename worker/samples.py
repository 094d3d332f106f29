"""The samples of a lease in training order, read shard by shard while training goes on: pictures, or latents.

The order is a function of the run's seed and the lease's ranges alone; which shards are cached changes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor

from diffusion_at_home.data.latents import LatentShard, SampleText, read_latents
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.order import ShardRange, sample_order
from diffusion_at_home.data.shards import Sample, decode_images, read_shard
from diffusion_at_home.errors import DataError, LeaseLost
from worker.blobs import BlobFetcher, BlobRef
from worker.stop import Interrupted
from worker.trainer import Batch

_MEMORY_BYTES: Final = 512 * 2**20
"""For shards that were read lately; the current one is kept whatever its size."""


class _Shard(Protocol):
    """A shard in memory."""

    num_bytes: int

    def text(self, position: int) -> Sample | SampleText:
        """What the sample at `position` of the file is called."""

    def values(self, positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """What is trained on: fp32 (n, C, H, W), and the spread of latents around it, (n, C, 1, 1)."""


class _PictureShard:
    """Decoded once, where that takes little memory."""

    def __init__(self, path: Path, entry: ShardEntry, channels: int) -> None:
        self._samples = read_shard(path, entry)
        self._entry = entry
        self._channels = channels
        self._images_NCHW: Tensor | None = None
        self.num_bytes = entry.size_bytes
        decoded_bytes = 4 * channels * entry.height * entry.width * len(self._samples)
        if entry.size_bytes + decoded_bytes <= _MEMORY_BYTES // 4:
            self._images_NCHW = decode_images(self._samples, entry.size, channels)
            self.num_bytes += decoded_bytes

    def text(self, position: int) -> Sample:
        return self._samples[position]

    def values(self, positions: Sequence[int]) -> tuple[Tensor, None]:
        if self._images_NCHW is not None:
            return self._images_NCHW[list(positions)], None
        samples = [self._samples[position] for position in positions]
        return decode_images(samples, self._entry.size, self._channels), None


class _Latents:
    def __init__(self, shard: LatentShard, num_bytes: int) -> None:
        self._shard = shard
        self.num_bytes = num_bytes

    def text(self, position: int) -> SampleText:
        return self._shard.texts[position]

    def values(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        posterior = self._shard.posterior(positions)
        return posterior.means_NCHW, posterior.spreads_NC[:, :, None, None]


@dataclass(frozen=True, slots=True)
class _Pick:
    """A sample."""

    epoch: int
    shard: int
    position: int
    """In the shard's file."""


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
        """The samples of `ranges` in order, batch_images at a time and what is left of each size at its end.

        A batch holds pictures of one size, so one is smaller where a shard of another size begins.
        Ends early if `interrupt` is set while a shard is waited for. Raises as `BlobFetcher.have`.
        """
        picks = self._picks(ranges)
        try:
            for _, same_size in itertools.groupby(picks, key=lambda pick: self._data.train[pick.shard].size):
                while batch := list(itertools.islice(same_size, self._batch_images)):
                    yield self._batch(batch, interrupt)
        except Interrupted:
            return
        except DataError as error:  # its digest is right: the fault is the operator's and not this machine's
            raise LeaseLost(f"a shard of the run cannot be read ({error})", "unreadable_shard") from None

    def _picks(self, ranges: Sequence[ShardRange]) -> Iterator[_Pick]:
        for part in ranges:
            order = sample_order(self._seed, part.epoch, part.shard, self._data.train[part.shard].num_samples)
            for position in order[part.start : part.start + part.count]:
                yield _Pick(part.epoch, part.shard, position)

    def _batch(self, picks: Sequence[_Pick], interrupt: threading.Event) -> Batch:
        images: list[Tensor] = []
        spreads: list[Tensor] = []
        captions: list[str] = []
        for index, members in itertools.groupby(picks, key=lambda pick: pick.shard):
            shard, group = self._shard(index, interrupt), list(members)
            values_NCHW, spread_NC11 = shard.values([pick.position for pick in group])
            images.append(values_NCHW)
            if spread_NC11 is not None:
                spreads.append(spread_NC11)
            captions += [self._caption(pick, shard.text(pick.position)) for pick in group]
        return Batch(torch.cat(images), captions, torch.cat(spreads) if spreads else None)

    def _caption(self, pick: _Pick, sample: Sample | SampleText) -> str:
        """One of the sample's captions, another in each epoch."""
        if not sample.further_captions:
            return sample.caption
        text = f"dah-captions-1\n{self._seed}\n{pick.epoch}\n{pick.shard}\n{pick.position}"
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        return (sample.caption, *sample.further_captions)[drawn % (1 + len(sample.further_captions))]

    def _shard(self, index: int, interrupt: threading.Event) -> _Shard:
        if index not in self._shards:
            self._shards[index] = self._read(index, interrupt)
        self._shards.move_to_end(index)
        while len(self._shards) > 1 and sum(shard.num_bytes for shard in self._shards.values()) > _MEMORY_BYTES:
            self._shards.popitem(last=False)
        return self._shards[index]

    def _read(self, index: int, interrupt: threading.Event) -> _Shard:
        entry, latents = self._data.train[index], self._data.latents
        with self._blobs.have(BlobRef(entry.sha256, entry.size_bytes), interrupt) as path:
            if latents is not None:
                return _Latents(read_latents(path, entry, latents.space), entry.size_bytes)
            return _PictureShard(path, entry, self._data.channels)
