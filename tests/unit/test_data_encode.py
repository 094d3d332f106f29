"""Latents of a data set: a shard for each of its shards; killed and run again, the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusion_at_home.data.encode import Encoder, encode
from diffusion_at_home.data.inspect import contact_sheet, summarize
from diffusion_at_home.data.latents import Posterior, read_latents
from diffusion_at_home.data.manifest import AUTOENCODER_NAME, MANIFEST_NAME, DataManifest, LatentSpace, verify
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.model.autoencoder import encoder_of, latent_space, open_autoencoder
from tests.unit.tiny_autoencoder import encode_tiny_data, save_tiny_autoencoder
from tests.unit.tiny_data import SHARD_SIZES


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, an autoencoder and latents; not to be changed."""
    root = tmp_path_factory.mktemp("encoded")
    encode_tiny_data(root)
    return root


def space_of(root: Path) -> LatentSpace:
    return latent_space(open_autoencoder(str(root / "autoencoder"), named_by="a test"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def encode_again(root: Path, out: Path, *, shards: int = 1000) -> DataManifest:
    """Encode into `out`, and die once `shards` of them are done."""
    autoencoder = open_autoencoder(str(root / "autoencoder"), named_by="a test")
    finished: list[int] = []

    def count(samples: int) -> None:
        finished.append(samples)
        if len(finished) > shards:
            raise Killed

    return encode(root / "pictures", out, encoder_of(autoencoder), on_samples=count)


def unused(root: Path, **space: object) -> Encoder:
    """The encoder of `root`, or one of another space, for what it has nothing to do with."""

    def never(_: object) -> Posterior:
        raise AssertionError("nothing is left to encode")

    return Encoder(space_of(root).model_copy(update=space), never, never)


def test_every_shard_of_pictures_has_one_of_latents_with_the_same_samples(done: Path) -> None:
    pictures, latents = DataManifest.load(done / "pictures"), DataManifest.load(done / "latents")
    verify(done / "latents", latents)
    assert latents.latents is not None
    assert (latents.latents.pictures, latents.license) == (pictures.digest, pictures.license)
    assert [entry.num_samples for entry in latents.train] == list(SHARD_SIZES)
    assert len(latents.held_out) == len(pictures.held_out)
    for mine, theirs in zip((*latents.train, *latents.held_out), (*pictures.train, *pictures.held_out), strict=True):
        assert mine.size == theirs.size
        texts = read_latents(done / "latents" / mine.name, mine, latents.latents.space).texts
        samples = read_shard(done / "pictures" / theirs.name, theirs)
        assert [(text.key, text.caption, text.license) for text in texts] == [
            (sample.key, sample.caption, sample.license) for sample in samples
        ]


def test_latents_are_the_shifted_and_scaled_posterior(tmp_path: Path, done: Path) -> None:
    save_tiny_autoencoder(tmp_path / "shifted", shift_factor=0.25, scaling_factor=3.0)
    autoencoder = open_autoencoder(str(tmp_path / "shifted"), named_by="a test")
    entry = DataManifest.load(done / "pictures").train[0]
    images = decode_images(read_shard(done / "pictures" / entry.name, entry), entry.size, 3)
    made = encode(done / "pictures", tmp_path / "latents", encoder_of(autoencoder))
    assert made.latents is not None
    shard = read_latents(tmp_path / "latents" / made.train[0].name, made.train[0], made.latents.space)
    stored = shard.posterior(range(len(images)))
    with torch.no_grad():
        naive = autoencoder.encode(images).latent_dist
    assert torch.allclose(stored.means_NCHW, (naive.mean - 0.25) * 3.0, atol=0.02)
    spreads = naive.std.square().mean(dim=(2, 3)).sqrt() * 3.0
    assert torch.allclose(stored.spreads_NC, spreads, rtol=1e-2, atol=1e-4)


def test_an_encoding_that_was_killed_comes_to_the_same_bytes(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    with pytest.raises(Killed):
        encode_again(done, out, shards=1)
    (out / "train-2.tmp").write_bytes(b"half")
    first = (out / "train-0.safetensors").stat().st_mtime_ns
    encode_again(done, out)
    assert contents(out) == contents(done / "latents")
    assert (out / "train-0.safetensors").stat().st_mtime_ns == first


def test_a_finished_shard_that_is_damaged_is_made_again(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    with pytest.raises(Killed):
        encode_again(done, out, shards=1)
    path = out / "train-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    encode_again(done, out)
    assert contents(out) == contents(done / "latents")


def test_a_finished_data_set_is_checked_and_left_alone(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    made = encode_again(done, out)
    assert encode(done / "pictures", out, unused(done)) == made
    (out / made.train[0].name).write_bytes(b"")
    with pytest.raises(DataError, match=r"delete .* and encode again"):
        encode(done / "pictures", out, unused(done))


def test_the_data_set_brings_its_autoencoder(done: Path) -> None:
    inside = open_autoencoder(str(done / "latents" / AUTOENCODER_NAME), named_by="a test")
    assert latent_space(inside) == space_of(done)
    assert str(done) not in (done / "latents" / AUTOENCODER_NAME / "config.json").read_text()


def test_latents_are_inspected_but_for_their_pictures(done: Path, tmp_path: Path) -> None:
    latents, pictures = summarize(done / "latents"), summarize(done / "pictures")
    assert (latents.captions, latents.licenses, latents.sizes) == (pictures.captions, pictures.licenses, pictures.sizes)
    with pytest.raises(ConfigError, match="holds latents"):
        contact_sheet(done / "latents", tmp_path / "sheet.png")


def test_a_folder_of_something_else_is_left_alone(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "letters"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="something else"):
        encode_again(done, out)
    other = unused(done, autoencoder="1" * 64)
    with pytest.raises(ConfigError, match="choose a new folder"):
        encode(done / "pictures", done / "latents", other)
    part = tmp_path / "part"
    with pytest.raises(Killed):
        encode_again(done, part, shards=1)
    with pytest.raises(ConfigError, match="another autoencoder"):
        encode(done / "pictures", part, other)
    (part / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="something else"):
        encode_again(done, part)
    assert not (part / MANIFEST_NAME).exists()


def test_pictures_that_the_autoencoder_does_not_take_are_refused(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="holds latents already"):
        encode(done / "latents", out, unused(done))
    with pytest.raises(ConfigError, match="4 x 4 pixels, no multiples of the autoencoder's factor of 8"):
        encode(done / "pictures", out, unused(done, factor=8))
    assert not out.exists()
