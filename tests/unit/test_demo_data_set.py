"""What the demo trains on."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.demo.data_set import DemoData
from diffusion_at_home.demo.step import StepFailed, dah
from diffusion_at_home.errors import StopProcess
from tests.unit.tiny_run import REPOSITORY

CONFIGS = REPOSITORY / "configs"


def demo_data(name: str, *overrides: str) -> DemoData:
    path = CONFIGS / name
    return DemoData.of(load_toml(path, RunConfig, overrides), path, Path("/out"))


def test_pictures_are_built_and_trained_on_as_they_are() -> None:
    data = demo_data("emoji.toml")
    assert (data.source, data.autoencoder) == ("emoji", None)
    assert data.overrides == ["data.path='/out/data'"]


def test_latents_are_encoded_from_the_pictures_by_an_autoencoder_of_the_demo() -> None:
    data = demo_data("emoji-latent.toml")
    assert data.source == "emoji"
    assert data.overrides == ["data.path='/out/latents'", "model.latents.autoencoder='/out/autoencoder'"]


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("emoji.toml", "data.path='photos'"),
        ("emoji.toml", "data.path='emoji-latents'"),
        ("prx-350m.toml", "data.path='emoji'"),
    ],
)
def test_what_needs_a_download_is_no_demo(name: str, override: str) -> None:
    with pytest.raises(StopProcess, match="the demo builds what needs no download, digits or emoji"):
        demo_data(name, override)


def test_a_step_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(
        StepFailed, match=r"`dah data build` failed: there is no data source 'emojis'; did you mean"
    ) as failed:
        dah("data", "build", "emojis", str(tmp_path / "data"))
    assert failed.value.exit_code == 3
