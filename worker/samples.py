"""The samples of a lease in training order, read shard by shard while training goes on: pictures, or latents.

The order is a function of the run's seed and the lease's ranges alone; which shards are cached changes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from diffusion_at_home.model.base import Embeddings
from worker.blobs import BlobFetcher, BlobRef
from worker.captions import CaptionEmbeddings, Embedded
from worker.stop import Interrupted
from worker.trainer import Batch

_MEMORY_BYTES: Final = 512 * 2**20
"""For shards that were read lately; the current one is kept whatever its size."""


class _Shard(Protocol):
    """A shard in memory."""

    num_bytes: int

    @property
    def texts(self) -> Sequence[Sample | SampleText]:
        """What its samples are called, in the order of the file."""

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

    @property
    def texts(self) -> Sequence[Sample]:
        return self._samples

    def values(self, positions: Sequence[int]) -> tuple[Tensor, None]:
        if self._images_NCHW is not None:
            return self._images_NCHW[list(positions)], None
        samples = [self._samples[position] for position in positions]
        return decode_images(samples, self._entry.size, self._channels), None


class _Latents:
    def __init__(self, shard: LatentShard, num_bytes: int) -> None:
        self._shard = shard
        self.num_bytes = num_bytes

    @property
    def texts(self) -> Sequence[SampleText]:
        return self._shard.texts

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


@dataclass(frozen=True, slots=True)
class _Read:
    """A shard in memory, and its captions where their encoder is frozen."""

    shard: _Shard
    embedded: Embedded | None
    num_bytes: int


class LeaseSamples:
    """Reads the shards of one run."""

    def __init__(
        self,
        data: DataManifest,
        blobs: BlobFetcher,
        *,
        batch_images: int,
        seed: int,
        embeddings: CaptionEmbeddings | None = None,
    ) -> None:
        """`seed` is the run's; `embeddings` are there where its text encoder is frozen."""
        self._data = data
        self._blobs = blobs
        self._batch_images = batch_images
        self._seed = seed
        self._embeddings = embeddings
        self._shards: OrderedDict[int, _Read] = OrderedDict()

    def prepare(
        self,
        ranges: Sequence[ShardRange],
        interrupt: threading.Event,
        stop: threading.Event,
        tell: Callable[[int], None],
    ) -> None:
        """Encode the captions of those shards of `ranges` that have not been, so that their encoder is loaded once.

        `tell` hears how many these are, if there are any. A lease that ends meanwhile sets `interrupt`, which ends the wait for
        a shard but not the encoding, else a slow machine would begin it again with each lease; `stop` ends both. Raises as
        `BlobFetcher.have`, and `LeaseLost` if a shard cannot be read.
        """
        embeddings = self._embeddings
        if embeddings is None:
            return
        entries = [self._data.train[index] for index in dict.fromkeys(part.shard for part in ranges)]
        missing = [entry for entry in entries if not embeddings.cached(entry.sha256)]
        if missing:
            tell(len(missing))
            with _readable():
                embeddings.encode(self._captions(missing, interrupt), stop)

    def batches(self, ranges: Sequence[ShardRange], interrupt: threading.Event) -> Iterator[Batch]:
        """The samples of `ranges` in order, batch_images at a time and what is left of each size at its end.

        A batch holds pictures of one size, so one is smaller where a shard of another size begins.
        Ends early if `interrupt` is set while a shard is waited for. Raises as `BlobFetcher.have`.
        """
        picks = self._picks(ranges)
        with suppress(Interrupted), _readable():
            for _, same_size in itertools.groupby(picks, key=lambda pick: self._data.train[pick.shard].size):
                while batch := list(itertools.islice(same_size, self._batch_images)):
                    yield self._batch(batch, interrupt)

    def _picks(self, ranges: Sequence[ShardRange]) -> Iterator[_Pick]:
        for part in ranges:
            order = sample_order(self._seed, part.epoch, part.shard, self._data.train[part.shard].num_samples)
            for position in order[part.start : part.start + part.count]:
                yield _Pick(part.epoch, part.shard, position)

    def _batch(self, picks: Sequence[_Pick], interrupt: threading.Event) -> Batch:
        images: list[Tensor] = []
        spreads: list[Tensor] = []
        captions: list[str] = []
        rows: list[Tensor] = []
        empty: list[Tensor] = []
        for index, members in itertools.groupby(picks, key=lambda pick: pick.shard):
            read, group = self._shard(index, interrupt), list(members)
            values_NCHW, spread_NC11 = read.shard.values([pick.position for pick in group])
            images.append(values_NCHW)
            if spread_NC11 is not None:
                spreads.append(spread_NC11)
            texts = [self._caption(pick, read.shard.texts[pick.position]) for pick in group]
            captions += texts
            if read.embedded is not None:
                rows += [read.embedded[text] for text in texts]
                empty = [read.embedded[""]]
        text = Embeddings.of([*rows, *empty]) if empty else None
        return Batch(torch.cat(images), captions, torch.cat(spreads) if spreads else None, text)

    def _caption(self, pick: _Pick, sample: Sample | SampleText) -> str:
        """One of the sample's captions, another in each epoch."""
        if not sample.further_captions:
            return sample.caption
        text = f"dah-captions-1\n{self._seed}\n{pick.epoch}\n{pick.shard}\n{pick.position}"
        drawn = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        return (sample.caption, *sample.further_captions)[drawn % (1 + len(sample.further_captions))]

    def _shard(self, index: int, interrupt: threading.Event) -> _Read:
        if index not in self._shards:
            self._shards[index] = self._read(index, interrupt)
        self._shards.move_to_end(index)
        while len(self._shards) > 1 and sum(read.num_bytes for read in self._shards.values()) > _MEMORY_BYTES:
            self._shards.popitem(last=False)
        return self._shards[index]

    def _read(self, index: int, interrupt: threading.Event) -> _Read:
        entry, latents = self._data.train[index], self._data.latents
        with self._blobs.have(BlobRef(entry.sha256, entry.size_bytes), interrupt) as path:
            shard: _Shard
            if latents is not None:
                shard = _Latents(read_latents(path, entry, latents.space), entry.size_bytes)
            else:
                shard = _PictureShard(path, entry, self._data.channels)
            embedded = self._embedded(entry, _captions_of(shard.texts), interrupt)
            num_bytes = sum(row.nbytes for row in embedded.values()) if embedded else 0
            return _Read(shard, embedded, shard.num_bytes + num_bytes)

    def _embedded(self, entry: ShardEntry, captions: list[str], interrupt: threading.Event) -> Embedded | None:
        """Those of `prepare`, unless they went bad on the disk, or with their shard, meanwhile."""
        if self._embeddings is None:
            return None
        for _ in range(2):
            found = self._embeddings.read(entry.sha256, captions)
            if found is not None:
                return found
            self._embeddings.encode([(entry.sha256, captions)], interrupt)
        raise DataError(f"the embeddings of {entry.name} do not stay as they were written: check this machine's disk")

    def _captions(
        self, entries: Sequence[ShardEntry], interrupt: threading.Event
    ) -> Iterator[tuple[str, Sequence[str]]]:
        """Of each shard, which is in use until the next one is asked for."""
        latents = self._data.latents
        for entry in entries:
            with self._blobs.have(BlobRef(entry.sha256, entry.size_bytes), interrupt) as path:
                yield (
                    entry.sha256,
                    _captions_of(
                        read_latents(path, entry, latents.space).texts if latents else read_shard(path, entry)
                    ),
                )


def _captions_of(texts: Sequence[Sample | SampleText]) -> list[str]:
    """Every caption of a shard, in the order of the file."""
    return [caption for text in texts for caption in (text.caption, *text.further_captions)]


@contextmanager
def _readable() -> Iterator[None]:
    """Within, a shard that cannot be read costs the lease: its digest is right, so the fault is the operator's."""
    try:
        yield
    except DataError as error:
        raise LeaseLost(f"a shard of the run cannot be read ({error})", "unreadable_shard") from None
