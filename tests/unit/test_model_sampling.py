"""What `draw` draws in a batch is what the stock pipeline draws, for every family, at any size, and decoded the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC
from torch import Tensor

from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.decoding import SD_SCALE, Decoder, restate
from diffusion_at_home.model.sampling import draw, sample
from tests.unit.tiny_families import FAMILIES, LATENTS, PIXELS, UNET, family_overrides, save_autoencoder
from tests.unit.tiny_run import CAPTIONS, spread_weights, tiny_config, tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore:.LoraLoaderMixin. is deprecated:FutureWarning"
)  # PRXPipeline's own base

SHIFTED = {"scaling_factor": 1.5, "shift_factor": 0.25}
"""Of an autoencoder: anything but what Stable Diffusion has."""


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    save_autoencoder(folder, **SHIFTED)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name


@pytest.fixture(scope="module")
def model(family: str, autoencoder: Path) -> DiffusionModel:
    model = tiny_model(tiny_config(*family_overrides(family, autoencoder))).eval()
    spread_weights(model)
    return model


def sizes(family: str) -> list[tuple[int, int, int]]:
    """A square, a wide and a tall one."""
    return [(3, 4, 4), (3, 4, 6), (3, 8, 2)] if family == PIXELS else [(4, 8, 8), (4, 4, 8), (4, 8, 4)]


def stock(
    model: DiffusionModel, noise: Tensor, size: tuple[int, int, int], steps: int, guidance_scale: float, wanted: str
) -> Tensor:
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    factor = 8 if model.decoder else 1
    drawn: Tensor = pipeline(
        CAPTIONS[0],
        height=size[1] * factor,
        width=size[2] * factor,
        latents=noise[:1],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type=wanted,
        **model.pipeline_call(),
    ).images
    return drawn


@pytest.mark.parametrize("which", range(3), ids=("square", "wide", "tall"))
@pytest.mark.parametrize(("steps", "guidance_scale"), [(1, 1.0), (6, 1.0), (6, 3.0)])
def test_a_sample_of_a_batch_is_the_stock_pipelines(
    model: DiffusionModel, family: str, which: int, steps: int, guidance_scale: float
) -> None:
    size = sizes(family)[which]
    ours = sample(model, list(CAPTIONS), steps=steps, guidance_scale=guidance_scale, seed=4, size=size)
    assert ours.shape == (2, *size)
    noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(4))
    theirs = stock(model, noise, size, steps, guidance_scale, "latent")
    assert torch.allclose(ours[:1], theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("which", range(3), ids=("square", "wide", "tall"))
def test_a_picture_of_a_batch_is_the_stock_pipelines(model: DiffusionModel, family: str, which: int) -> None:
    size = sizes(family)[which]
    ours = draw(model, list(CAPTIONS), steps=4, guidance_scale=2.0, seed=4, size=size)
    factor = 8 if model.decoder else 1
    assert ours.shape == (2, 3, size[1] * factor, size[2] * factor)
    noise = torch.randn(2, *size, generator=torch.Generator().manual_seed(4))
    theirs = stock(model, noise, size, 4, 2.0, "np")
    as_stock = ((ours[:1] + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    assert torch.allclose(as_stock, torch.as_tensor(theirs), atol=1e-4)


def test_the_autoencoder_is_loaded_once_and_is_no_part_of_the_model(autoencoder: Path) -> None:
    model = tiny_model(tiny_config(*family_overrides(LATENTS, autoencoder)))
    assert model.decoder is not None
    assert model.pipeline().vae is model.pipeline().vae is model.decoder.autoencoder
    assert all("vae" not in name and "autoencoder" not in name for name, _ in model.named_modules())


def test_an_adopted_pipeline_brings_its_own_autoencoder(autoencoder: Path, tmp_path: Path) -> None:
    for family in (LATENTS, UNET):
        model = tiny_model(tiny_config(*family_overrides(family, autoencoder)))
        elsewhere = tiny_model(tiny_config(*family_overrides(family, tmp_path / "nowhere")))
        elsewhere.adopt(model.pipeline())
        assert elsewhere.decoder is not None
        assert model.decoder is not None
        assert elsewhere.decoder.autoencoder is model.decoder.autoencoder


@pytest.mark.parametrize("scale", [SD_SCALE, 0.7])
def test_a_restated_autoencoder_has_the_same_scaled_latents_and_pictures(tmp_path: Path, scale: float) -> None:
    old = save_autoencoder(tmp_path, **SHIFTED)
    new = restate(old, scale)
    assert (new.config.scaling_factor, new.config.shift_factor) == (scale, None)
    pictures = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z_old, z_new = (each.encode(pictures).latent_dist for each in (old, new))
        assert torch.allclose((z_old.mean - 0.25) * 1.5, z_new.mean * scale, atol=1e-5)
        assert torch.allclose(z_old.std * 1.5, z_new.std * scale, atol=1e-5)
        latents = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0))
        decoded = [each.decode(z).sample for each, z in ((old, latents / 1.5 + 0.25), (new, latents / scale))]
    assert torch.allclose(*decoded, atol=1e-5)


def test_what_cannot_be_restated_is_refused_with_the_key_to_change(tmp_path: Path) -> None:
    compressing = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
    )
    bare = save_autoencoder(tmp_path, **SHIFTED, use_quant_conv=False, use_post_quant_conv=False)
    for autoencoder in (compressing, bare):
        with pytest.raises(ConfigError, match=r"model\.latents\.autoencoder"):
            restate(autoencoder)


def test_an_autoencoder_of_the_right_scale_is_left_alone(tmp_path: Path) -> None:
    old = save_autoencoder(tmp_path)
    assert restate(old) is old


def test_a_decoder_decodes_in_parts_what_it_would_decode_whole(autoencoder: Path) -> None:
    config = tiny_config(*family_overrides(LATENTS, autoencoder)).model
    decoder = Decoder(config.latents)
    latents = torch.randn(3, 4, 40, 64, generator=torch.Generator().manual_seed(0))  # 163,840 pixels each
    with torch.no_grad():
        whole = decoder.autoencoder.decode(latents / 1.5 + 0.25).sample
    assert torch.allclose(decoder(latents), whole, atol=1e-3)
