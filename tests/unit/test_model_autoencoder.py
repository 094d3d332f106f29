"""Autoencoders: what is loaded is named exactly; what is trained here reconstructs, and is the same each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL

from diffusion_at_home.data.manifest import AutoencoderKind, DataManifest
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.autoencoder import (
    decode_latents,
    encode_pictures,
    latent_space,
    open_autoencoder,
    weights_digest,
)
from diffusion_at_home.model.autoencoder_training import train_autoencoder
from tests.unit.square_pictures import SIDE, build_squares, small_training
from tests.unit.tiny_autoencoder import CHANNELS, FACTOR, encode_tiny_data, save_tiny_autoencoder


def opened(folder: Path) -> AutoencoderKL | AutoencoderDC:
    return open_autoencoder(str(folder), named_by="--autoencoder")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    build_squares(folder)
    return folder


def test_training_reconstructs_what_it_has_not_seen_and_diffusers_loads_it(pictures: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    made = train_autoencoder(
        pictures, tmp_path / "made", small_training("images=480", "groups=2"), on_images=lambda *step: seen.append(step)
    )
    images, losses = zip(*seen, strict=True)
    assert list(images) == sorted(set(images))
    assert images[-1] == made.images == 480
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])
    untrained = train_autoencoder(pictures, tmp_path / "untrained", small_training("images=8", "learning_rate=1e-9"))
    assert made.psnr_db > untrained.psnr_db + 2
    loaded = AutoencoderKL.from_pretrained(made.folder)
    assert (made.factor, made.channels) == (2, 4)
    assert loaded.config.shift_factor == 0.0
    assert weights_digest(loaded) == made.weights_digest
    facts = json.loads((tmp_path / "made" / "training.json").read_text())
    assert facts["pictures"] == DataManifest.load(pictures).digest
    assert not list(tmp_path.glob(".*"))


def test_latents_of_what_was_trained_have_a_spread_of_about_one(pictures: Path, tmp_path: Path) -> None:
    made = train_autoencoder(pictures, tmp_path / "made", small_training("images=64"))
    autoencoder = opened(Path(made.folder))
    x = torch.rand(64, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = encode_pictures(autoencoder, x)
    assert 0.2 < float(posterior.means_NCHW.std()) < 5
    back = decode_latents(autoencoder, posterior.means_NCHW)
    with torch.no_grad():
        stock = autoencoder.decode(posterior.means_NCHW / autoencoder.config.scaling_factor).sample
    assert torch.equal(back, stock)


def test_training_twice_gives_the_same_weights_and_another_seed_others(pictures: Path, tmp_path: Path) -> None:
    made = [
        train_autoencoder(pictures, tmp_path / name, small_training("images=48", f"seed={seed}", "window=4"))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert made[0].weights_digest == made[1].weights_digest != made[2].weights_digest


def test_what_cannot_be_trained_on_is_refused(pictures: Path, tmp_path: Path) -> None:
    encode_tiny_data(tmp_path)
    cases: Sequence[tuple[Path, str, str]] = (
        (tmp_path / "latents", "images=8", "holds latents"),
        (pictures, "block_out_channels=[8, 8, 8, 8, 8]", "change block_out_channels"),
    )
    for folder, override, why in cases:
        with pytest.raises(ConfigError, match=why):
            train_autoencoder(folder, tmp_path / "out", small_training(override))
    with pytest.raises(ConfigError, match="exists already"):
        train_autoencoder(pictures, tmp_path / "autoencoder", small_training())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "why"), [("groups=3", "change groups"), ("window=5", "change window"), ("image=5", "'images'")]
)
def test_settings_that_do_not_fit_name_the_key(override: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        small_training(override)


def test_an_autoencoder_is_named_by_its_weights_whatever_file_they_lie_in(tmp_path: Path) -> None:
    save_tiny_autoencoder(tmp_path / "a")
    opened(tmp_path / "a").save_pretrained(tmp_path / "b", max_shard_size="4KB")
    save_tiny_autoencoder(tmp_path / "c", seed=1)
    spaces = [latent_space(opened(tmp_path / name)) for name in "abc"]
    assert spaces[0] == spaces[1] != spaces[2]
    assert (spaces[0].channels, spaces[0].factor, spaces[0].scaling_factor) == (CHANNELS, FACTOR, 2.0)
    assert spaces[0].shift_factor == 0.0


def test_an_autoencoder_dc_has_no_spread(tmp_path: Path) -> None:
    two = {
        f"{side}_{what}": value
        for side in ("encoder", "decoder")
        for what, value in (
            ("block_types", ("ResBlock", "ResBlock")),
            ("block_out_channels", (8, 8)),
            ("layers_per_block", (1, 1)),
            ("qkv_multiscales", ((), ())),
        )
    }
    AutoencoderDC(latent_channels=4, scaling_factor=0.5, **two).save_pretrained(tmp_path)
    autoencoder = opened(tmp_path)
    space = latent_space(autoencoder)
    assert (space.kind, space.channels, space.factor, space.shift_factor) == (AutoencoderKind.DC, 4, 2, 0.0)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior = encode_pictures(autoencoder, x)
    assert not posterior.spreads_NC.any()
    with torch.no_grad():
        assert torch.equal(posterior.means_NCHW, autoencoder.encode(x).latent * 0.5)
    assert decode_latents(autoencoder, posterior.means_NCHW).shape == x.shape


def test_a_folder_without_an_autoencoder_is_refused_by_the_name_of_what_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--autoencoder = .* cannot be loaded"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ConfigError, match="AutoencoderKL or AutoencoderDC"):
        opened(tmp_path)
    save_tiny_autoencoder(tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        opened(tmp_path / "cut")
