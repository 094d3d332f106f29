"""A run in latents: what does not fit is refused with the key to change; what fits is evaluated and trained on."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.backup import back_up
from coordinator.data_fit import check_fit
from coordinator.init import init_run
from coordinator.ledger import Ledger
from coordinator.parts import spec_of
from coordinator.run_folder import RunFolder
from diffusion_at_home.data.manifest import DataManifest, LatentSpace
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.autoencoder import open_autoencoder, weights_digest
from tests.unit.tiny_autoencoder import encode_tiny_data, latent_overrides, save_tiny_autoencoder
from tests.unit.tiny_data import NUM_SAMPLES
from tests.unit.tiny_run import tiny_config


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, an autoencoder and latents; not to be changed."""
    root = tmp_path_factory.mktemp("encoded")
    encode_tiny_data(root)
    return root


def refused(root: Path, *overrides: str, data: str = "latents", **space: object) -> str:
    config = tiny_config(*latent_overrides(root), f"data.path='{root / data}'", *overrides)
    manifest = DataManifest.load(root / data)
    if space:
        assert manifest.latents is not None
        other = LatentSpace.model_validate(manifest.latents.space.model_dump() | space)
        manifest = manifest.model_copy(update={"latents": manifest.latents.model_copy(update={"space": other})})
    with pytest.raises(ConfigError) as error:
        check_fit(config, manifest)
    return str(error.value)


def test_a_run_is_made_of_latents_that_fit(done: Path, tmp_path: Path) -> None:
    made = init_run(RunFolder(tmp_path / "run"), tiny_config(*latent_overrides(done)))
    assert (made.images, made.held_out_images) == (NUM_SAMPLES, 8)


def test_a_run_has_its_autoencoder_in_its_own_folder_and_in_its_backups(done: Path, tmp_path: Path) -> None:
    run, backup = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "backup")
    init_run(run, tiny_config(*latent_overrides(done)))
    back_up(run, backup)
    for folder in (run, backup):
        own = open_autoencoder(str(folder.autoencoder), named_by="a test")
        assert weights_digest(own) == weights_digest(open_autoencoder(str(done / "autoencoder"), named_by="a test"))
    with closing(Ledger(run.ledger, read_only=True)) as ledger:
        spec = spec_of(run, ledger)
    assert str(done) not in spec.to_bytes().decode()
    assert spec.config.model.in_latents


def test_pictures_for_a_run_in_latents_and_latents_for_one_in_pixels_are_refused_with_what_to_do(done: Path) -> None:
    assert "`dah data encode " in refused(done, data="pictures")
    in_pixels = refused(done, "model.latents.autoencoder='none'", "objective.prediction='sample'")
    assert "model.latents.autoencoder is 'none'" in in_pixels
    assert "`dah data encode`" in in_pixels


@pytest.mark.parametrize("override", ["model.latents.channels=3", "model.latents.factor=1"])
def test_another_shape_of_latents_names_the_keys(done: Path, override: str) -> None:
    assert "change model.latents.channels and model.latents.factor" in refused(done, override)


def test_another_autoencoder_than_that_of_the_data_is_refused(done: Path, tmp_path: Path) -> None:
    for name, facts in (("seed", {"seed": 1}), ("scale", {"scaling_factor": 1.5})):
        save_tiny_autoencoder(tmp_path / name, **facts)
        assert "of another autoencoder" in refused(done, f"model.latents.autoencoder='{tmp_path / name}'")
    shutil.copytree(done / "autoencoder", tmp_path / "copy")
    fits = tiny_config(*latent_overrides(done), f"model.latents.autoencoder='{tmp_path / 'copy'}'")
    check_fit(fits, DataManifest.load(done / "latents"))


def test_latents_that_stable_diffusion_pipeline_does_not_decode_are_refused_for_a_unet(done: Path) -> None:
    unet = ("model.kind='unet'", "model.unet.channels=[32, 64]", "model.unet.heads=2")
    assert "set model.kind to 'prx'" in refused(done, *unet, kind="AutoencoderDC")


def test_pictures_larger_than_the_model_name_its_size(done: Path) -> None:
    assert "change model.image_size" in refused(done, "model.image_size=2", "model.prx.patch_size=1")
