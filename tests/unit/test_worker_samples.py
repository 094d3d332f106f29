import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from PIL import Image

from diffusion_at_home.data.latents import Posterior, SampleText, write_latents
from diffusion_at_home.data.manifest import AutoencoderKind, DataManifest, Latents, LatentSpace, ShardEntry
from diffusion_at_home.data.order import ShardRange, sample_order
from diffusion_at_home.data.shards import Sample, write_shard
from diffusion_at_home.errors import RetryCall, Unreachable
from tests.unit.tiny_run import no_limit
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher
from worker.patience import Patience
from worker.run_address import RunAddress
from worker.samples import LeaseSamples

SEED = 11
NUM_SAMPLES = (10, 7)


class Mirror:
    """Serves the shards in a folder; the one named `missing` breaks off."""

    def __init__(self, folder: Path, entries: tuple[ShardEntry, ...]) -> None:
        self._paths = {f"/blobs/{entry.sha256}": folder / entry.name for entry in entries}
        self.missing = ""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = self._paths[request.url.path]
        if path.name == self.missing:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, stream=Body(path.read_bytes()))


class Body(httpx2.SyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data


def sample(shard: int, position: int, size: tuple[int, int] = (2, 2), further: tuple[str, ...] = ()) -> Sample:
    """A picture of one colour, which names shard and position."""
    png = io.BytesIO()
    Image.new("RGB", size, (shard, position, 0)).save(png, "PNG")
    return Sample(
        f"k{position}", png.getvalue(), "png", f"{shard}/{position}", "here", "CC0-1.0", further_captions=further
    )


def pictures(folder: Path, sizes: Sequence[tuple[int, int]] = ((2, 2), (2, 2)), *further: str) -> DataManifest:
    """A data set of shards of these sizes, in `folder`."""
    train = tuple(
        write_shard(folder / f"{shard}.tar", [sample(shard, position, size, further) for position in range(num)], size)
        for shard, (num, size) in enumerate(zip(NUM_SAMPLES, sizes, strict=True))
    )
    return DataManifest(name="t", source="here", license="CC0-1.0", train=train)


class Data:
    def __init__(self, folder: Path, manifest: DataManifest) -> None:
        self.manifest = manifest
        self.mirror = Mirror(folder, manifest.train)
        self.waits: list[RetryCall] = []
        blobs = BlobFetcher(
            pacer=no_limit(),
            address=RunAddress.parse("https://run.example"),
            http=httpx2.Client(transport=httpx2.MockTransport(self.mirror)),
            cache=BlobCache(folder / "cache", 1 << 20),
            patience=Patience(Backoff(1, 300), self._waiting),
        )
        self.interrupt = threading.Event()
        self.samples = LeaseSamples(self.manifest, blobs, batch_images=4, seed=SEED)

    @contextmanager
    def _waiting(self, why: RetryCall) -> Iterator[None]:
        self.waits.append(why)
        self.interrupt.set()
        yield


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path, pictures(tmp_path))


RANGES = [
    ShardRange(epoch=0, shard=1, start=5, count=2),
    ShardRange(epoch=1, shard=0, start=0, count=10),
    ShardRange(epoch=1, shard=1, start=3, count=1),
]


def test_samples_come_in_the_order_of_seed_epoch_and_range_with_their_pictures(data: Data) -> None:
    batches = list(data.samples.batches(RANGES, data.interrupt))
    naive = [
        f"{part.shard}/{sample_order(SEED, part.epoch, part.shard, NUM_SAMPLES[part.shard])[index]}"
        for part in RANGES
        for index in range(part.start, part.start + part.count)
    ]
    assert [caption for batch in batches for caption in batch.captions] == naive
    pictures = torch.cat([batch.images_BCHW for batch in batches])
    named = [f"{round(float(p[0, 0, 0] + 1) * 127.5)}/{round(float(p[1, 1, 1] + 1) * 127.5)}" for p in pictures]
    assert named == naive


def test_batches_hold_pictures_of_one_size(tmp_path: Path) -> None:
    data = Data(tmp_path, pictures(tmp_path, ((2, 4), (3, 2))))
    batches = [tuple(batch.images_BCHW.shape) for batch in data.samples.batches(RANGES, data.interrupt)]
    assert batches == [(2, 3, 2, 3), (4, 3, 4, 2), (4, 3, 4, 2), (2, 3, 4, 2), (1, 3, 2, 3)]


def test_pictures_go_by_all_their_captions_in_turn_and_by_the_same_for_everyone(tmp_path: Path) -> None:
    ranges = [ShardRange(epoch, shard=0, start=0, count=10) for epoch in range(40)]
    data = Data(tmp_path, pictures(tmp_path, ((2, 2), (2, 2)), "short", "long"))
    captions = [caption for batch in data.samples.batches(ranges, data.interrupt) for caption in batch.captions]
    assert captions == [c for batch in data.samples.batches(ranges, data.interrupt) for c in batch.captions]
    shares = [sum(word in caption for caption in captions) / len(captions) for word in ("short", "long", "/")]
    assert all(0.25 < share < 0.42 for share in shares)


def test_batches_run_over_range_boundaries_and_only_the_last_is_smaller(data: Data) -> None:
    batches = data.samples.batches(RANGES, data.interrupt)
    assert [len(batch.captions) for batch in batches] == [4, 4, 4, 1]


def test_an_interrupt_while_a_shard_is_waited_for_ends_the_lease_with_what_there_is(data: Data) -> None:
    data.mirror.missing = "0.tar"
    batches = list(data.samples.batches([ShardRange(0, 1, 0, 6), ShardRange(0, 0, 0, 10)], data.interrupt))
    assert [len(batch.captions) for batch in batches] == [4]
    assert isinstance(data.waits[0], Unreachable)


def test_latents_come_with_their_spread_and_over_shard_boundaries(tmp_path: Path) -> None:
    space = LatentSpace(
        kind=AutoencoderKind.KL, autoencoder="0" * 64, channels=1, factor=2, scaling_factor=1.0, shift_factor=0.0
    )
    train = tuple(
        write_latents(
            tmp_path / f"{shard}.safetensors",
            Posterior(
                torch.tensor([[shard + 1.0, position + 1.0] for position in range(num)])[:, None, None],
                torch.full((num, 1), shard + 0.5),
            ),
            [SampleText.of(sample(shard, position)) for position in range(num)],
            (4, 2),
        )
        for shard, num in enumerate(NUM_SAMPLES)
    )
    latents = Latents(space=space, pictures="0" * 64)
    manifest = DataManifest(name="t", source="here", license="CC0-1.0", train=train, latents=latents)
    data = Data(tmp_path, manifest)
    batches = list(data.samples.batches(RANGES, data.interrupt))
    assert [tuple(batch.images_BCHW.shape) for batch in batches] == [(4, 1, 1, 2)] * 3 + [(1, 1, 1, 2)]
    for batch in batches:
        assert batch.spread_BC11 is not None
        assert batch.spread_BC11.shape == (len(batch.captions), 1, 1, 1)
        for caption, mean, spread in zip(batch.captions, batch.images_BCHW, batch.spread_BC11, strict=True):
            shard, position = map(int, caption.split("/"))
            assert mean.flatten().tolist() == pytest.approx([shard + 1, position + 1], abs=0.05)
            assert float(spread) == shard + 0.5
