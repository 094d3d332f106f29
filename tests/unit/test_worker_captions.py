"""Captions are encoded once a shard, kept beside it, and what a lease trains on is a function of shards and encoder alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.errors import DataError, StorageError
from diffusion_at_home.frozen_text import FrozenKind
from diffusion_at_home.model.base import Embeddings
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.frozen import FrozenEncoder, keep_encoder
from diffusion_at_home.model.objective import drop_captions, sample_times
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout
from tests.unit.test_worker_samples import RANGES, SEED, Body, pictures
from tests.unit.tiny_run import no_limit, tiny_config
from tests.unit.tiny_text_encoder import frozen_overrides, save_text_encoder
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.captions import CaptionEmbeddings
from worker.embedding_file import read_embeddings, write_embeddings
from worker.patience import Patience
from worker.run_address import RunAddress
from worker.samples import LeaseSamples
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.stop import Interrupted
from worker.text_encoder import RunTextEncoder, with_room
from worker.trainer import Batch, LeaseTrainer, draw

NEVER = threading.Event()


class Mirror:
    """Serves blobs, and counts what is asked for."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self.asked: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.path.removeprefix("/blobs/")
        self.asked.append(name)
        return httpx2.Response(200, stream=Body(self._files[name].read_bytes()))


class Site:
    """A run with a frozen encoder, as one worker has it; what lies in the cache stays for the next one."""

    def __init__(
        self, root: Path, *further: str, seed: int = 0, quota_bytes: int = 1 << 24, max_tokens: int = 6
    ) -> None:
        data, encoder, kept = root / f"data-{len(further)}", root / f"encoder-{seed}", root / f"kept-{seed}"
        if not encoder.exists():
            save_text_encoder(encoder, FrozenKind.T5, seed=seed)
        if not data.exists():
            data.mkdir()
        self.manifest: DataManifest = pictures(data, ((2, 2), (2, 2)), *further)
        config = tiny_config(*frozen_overrides("prx", encoder, root), f"model.text.max_tokens={max_tokens}")
        config = config.model_copy(update={"model": config.model.model_copy(update={"image_size": 2})})
        section, text = keep_encoder(config.model.text, FrozenKind.T5, kept)
        self.config: RunConfig = config.model_copy(update={"model": config.model.model_copy(update={"text": section})})
        self.text = text
        spec = RunSpec(
            run_id="t-0", config=self.config, data=self.manifest, tokenizer="", text_encoder=text, receipt_key="0" * 64
        )
        files = {entry.sha256: data / entry.name for entry in self.manifest.train}
        self.mirror = Mirror(files | {file.sha256: kept / file.name for file in text.files})
        self.cache = BlobCache(root / "cache", quota_bytes)
        self.blobs = BlobFetcher(
            pacer=no_limit(),
            address=RunAddress.parse("https://run.example"),
            http=httpx2.Client(transport=httpx2.MockTransport(self.mirror)),
            cache=self.cache,
            patience=Patience(Backoff(1, 300), _fail),
        )
        self.encoder = RunTextEncoder(spec, text, self.blobs, lambda: torch.device("cpu"))
        self.embeddings = CaptionEmbeddings(spec, text, self.encoder, self.cache)
        self.samples = LeaseSamples(self.manifest, self.blobs, batch_images=4, seed=SEED, embeddings=self.embeddings)
        own = section.model_copy(update={"encoder": str(kept)})
        self.frozen = FrozenEncoder(own, FrozenKind.T5, str)
        self.told: list[int] = []

    def batches(self) -> list[Batch]:
        self.samples.prepare(RANGES, NEVER, NEVER, self.told.append)
        return list(self.samples.batches(RANGES, NEVER))

    def cached_files(self) -> list[Path]:
        return sorted((path for path in self.cache.path("x").parent.glob("*.captions-*")), key=lambda path: path.name)


@contextmanager
def _fail(why: object) -> Iterator[None]:
    raise AssertionError(why)
    yield


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def text_of(batch: Batch) -> Embeddings:
    assert batch.text is not None
    return batch.text


def rows_of(text: Embeddings) -> list[Tensor]:
    return [values_LD[mask_L] for values_LD, mask_L in zip(text.values_BLD, text.mask_BL, strict=True)]


def close(left: Tensor, right: Tensor) -> bool:
    """But for rounding to bf16 and the number of captions that were encoded together."""
    return left.shape == right.shape and torch.allclose(left.float(), right.float(), rtol=2**-8, atol=1e-3)


def test_a_batch_brings_the_embeddings_of_its_captions_and_of_the_empty_one_last(site: Site) -> None:
    batches = site.batches()
    assert [len(text_of(batch).mask_BL) for batch in batches] == [len(batch.captions) + 1 for batch in batches]
    for batch in batches:
        naive = [row for caption in [*batch.captions, ""] for row in site.frozen.rows([caption])]
        assert all(map(close, rows_of(text_of(batch)), naive))
        assert text_of(batch).values_BLD.dtype is torch.bfloat16


def test_every_caption_of_a_sample_has_its_embedding(tmp_path: Path) -> None:
    site = Site(tmp_path, "short", "a rather long one")
    ranges = [ShardRange(epoch, shard=0, start=0, count=10) for epoch in range(6)]
    site.samples.prepare(ranges, NEVER, NEVER, site.told.append)
    for batch in site.samples.batches(ranges, NEVER):
        naive = [row for caption in batch.captions for row in site.frozen.rows([caption])]
        assert all(map(close, rows_of(text_of(batch)), naive))


def test_shards_are_encoded_once_and_the_encoder_is_not_even_fetched_when_all_are(site: Site, tmp_path: Path) -> None:
    first = site.batches()
    assert site.told == [2]
    assert len(site.cached_files()) == 2
    again = Site(tmp_path)
    same = again.batches()
    assert again.told == []
    assert again.mirror.asked == []
    for one, other in zip(first, same, strict=True):
        assert torch.equal(text_of(one).values_BLD, text_of(other).values_BLD)


def test_what_is_kept_is_the_same_bits_whatever_lease_it_was_made_for(site: Site, tmp_path: Path) -> None:
    site.batches()
    before = {path.name: path.read_bytes() for path in site.cached_files()}
    for path in site.cached_files():
        path.unlink()
    other = Site(tmp_path)
    for shard in (0, 1):  # one lease each, in the other order
        list(other.samples.batches([ShardRange(0, shard, 0, 1)], NEVER))
    assert {path.name: path.read_bytes() for path in other.cached_files()} == before


@pytest.mark.parametrize("changes", [{"seed": 1}, {"max_tokens": 5}], ids=["other weights", "shorter captions"])
def test_nothing_of_another_encoder_is_taken(site: Site, tmp_path: Path, changes: dict[str, int]) -> None:
    site.batches()
    other = Site(tmp_path, **changes)  # type: ignore[arg-type]
    other.batches()
    assert other.told == [2]
    assert len(other.cached_files()) == 4


@pytest.mark.parametrize("how", ["a flipped bit", "cut", "of other captions"])
def test_what_went_bad_is_encoded_again(site: Site, tmp_path: Path, how: str) -> None:
    first = site.batches()
    path = site.cached_files()[0]
    data = path.read_bytes()
    if how == "of other captions":
        write_embeddings(path, [torch.zeros(2, 24)] * 3)
    else:
        path.write_bytes(data[:-7] if how == "cut" else data[:-7] + bytes([data[-7] ^ 1]) + data[-6:])
    again = Site(tmp_path)
    for one, other in zip(first, again.batches(), strict=True):
        assert torch.equal(text_of(one).values_BLD, text_of(other).values_BLD)
    assert path.read_bytes() == data


def test_embeddings_go_with_their_shard(site: Site) -> None:
    site.batches()
    shard = site.manifest.train[0].sha256
    assert site.embeddings.cached(shard)
    with site.cache.pinned(site.manifest.train[1].sha256), pytest.raises(StorageError):
        site.cache.make_room(BlobRef("0" * 64, 1 << 24))
    assert not site.cache.path(shard).exists()
    assert not site.embeddings.cached(shard)
    assert site.embeddings.cached(site.manifest.train[1].sha256)


def test_a_cache_without_room_names_the_setting(tmp_path: Path) -> None:
    half = Site(tmp_path).text.size_bytes // 2
    with pytest.raises(StorageError, match="raise cache_gib"):
        Site(tmp_path, quota_bytes=half).batches()


def test_a_request_to_stop_ends_the_encoding_and_a_lease_that_ends_does_not(site: Site) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        site.samples.prepare(RANGES, NEVER, stop, site.told.append)
    assert site.cached_files() == []
    for shard in site.manifest.train:
        site.blobs.fetch(BlobRef(shard.sha256, shard.size_bytes), NEVER)
    site.samples.prepare(RANGES, stop, NEVER, site.told.append)
    assert len(site.cached_files()) == 2


def test_the_encoder_takes_no_memory_but_while_it_encodes(site: Site) -> None:
    with site.encoder.opened(NEVER) as encode:
        rows = encode(["a dark square"])
        held = encode.__closure__  # type: ignore[attr-defined]
        frozen = next(cell.cell_contents for cell in held if isinstance(cell.cell_contents, FrozenEncoder))
        assert "encoder" in vars(frozen)
    assert close(rows[0], next(site.frozen.rows(["a dark square"])))
    assert "encoder" not in vars(frozen)


def test_a_device_without_memory_leaves_the_captions_to_the_host() -> None:
    def compute(device: torch.device) -> str:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if device.type == "meta":
            raise ValueError("something else")
        return "done"

    assert with_room(compute, torch.device("cpu")) == ("done", False)
    assert with_room(compute, torch.device("cuda")) == ("done", True)
    with pytest.raises(ValueError, match="something else"):
        with_room(compute, torch.device("meta"))


def test_dropped_captions_train_with_the_embedding_of_the_empty_one(site: Site) -> None:
    batch = site.batches()[0]
    objective = site.config.objective.model_copy(update={"caption_dropout": 0.5})
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    drawn = draw(batch, objective, generator)
    sample_times(4, objective, again)
    torch.randn(batch.images_BCHW.shape, generator=again)
    assert drawn.captions == drop_captions(batch.captions, 0.5, again)
    assert 0 < drawn.captions.count("") < 4
    assert drawn.text is not None
    text, empty = rows_of(text_of(batch)), rows_of(text_of(batch))[-1]
    for index, (caption, row) in enumerate(zip(drawn.captions, rows_of(drawn.text), strict=True)):
        assert torch.equal(row, text[index] if caption else empty)
    part = drawn.part(1, 3)
    assert part.text is not None
    assert torch.equal(part.text.values_BLD, drawn.text.values_BLD[1:3])
    share = drawn.share(1, 3)  # filled up
    assert share.text is not None
    assert torch.equal(share.text.values_BLD, drawn.text.values_BLD[[2, 3]])


def test_a_lease_trains_the_denoiser_as_its_captions_tell_and_to_the_same_bits_again(site: Site) -> None:
    batches, config = site.batches(), site.config
    model = build_model(config.model, config.objective, b"", seed=0)
    layout = Layout.of(model)
    base = layout.flatten(model)

    def delta(lease: Sequence[Batch]) -> Tensor:
        stepper = OneDevice(config, model, layout, CPU)
        return LeaseTrainer(config, stepper).train(base, lease, seed=3, learning_rate=1e-2).delta.clone()

    first = delta(batches)
    assert torch.equal(first, delta(batches))
    flipped = [replace(batch, text=text_of(batch).at([*reversed(range(len(batch.captions))), -1])) for batch in batches]
    assert not torch.equal(first, delta(flipped))


def test_embeddings_are_read_as_they_were_written_but_for_bf16(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 24, generator=generator) for length in (1, 5, 3)]
    write_embeddings(tmp_path / "x", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    for row, read in zip(rows, read_embeddings(tmp_path / "x", 3, 24), strict=True):
        assert torch.equal(read, row.bfloat16())
    for wrong in ((2, 24), (3, 23)):
        with pytest.raises(DataError, match="of other captions"):
            read_embeddings(tmp_path / "x", *wrong)
    tensors = load_file(tmp_path / "x")
    save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    with pytest.raises(DataError):
        read_embeddings(tmp_path / "x", 3, 24)


def test_bf16_is_off_by_less_than_int8_would_be(tmp_path: Path) -> None:
    even_TD = torch.randn(256, 768, generator=torch.Generator().manual_seed(0))
    uneven_TD = even_TD.clone()
    uneven_TD[:, :4] *= 30  # a few features far larger than the rest
    for tokens_TD, least in ((even_TD, 0.006), (uneven_TD, 0.01)):
        write_embeddings(tmp_path / "x", [tokens_TD])
        (read_TD,) = read_embeddings(tmp_path / "x", 1, 768)
        assert _apart(read_TD.float(), tokens_TD) < 0.002
        scales_T1 = tokens_TD.abs().amax(dim=1, keepdim=True) / 127
        assert _apart((tokens_TD / scales_T1).round() * scales_T1, tokens_TD) > least


def _apart(found_TD: Tensor, wanted_TD: Tensor) -> float:
    return float((found_TD - wanted_TD).norm() / wanted_TD.norm())
