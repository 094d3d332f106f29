"""`dah data train-autoencoder` and `dah data encode`, one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from diffusion_at_home.cli.data import app
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.errors import ConfigError
from tests.unit.tiny_data import NUM_SAMPLES, build_tiny_data


def dah_data(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_autoencoder_is_trained_and_its_latents_are_made(tmp_path: Path) -> None:
    pictures, autoencoder, out = tmp_path / "pictures", tmp_path / "autoencoder", tmp_path / "latents"
    build_tiny_data(pictures)
    small = [part for key in ("block_out_channels=[4, 4]", "groups=2", "images=16") for part in ("--set", key)]
    made = dah_data("train-autoencoder", pictures, autoencoder, *small)
    assert (made["factor"], made["channels"], made["images"]) == (2, 4, 16)
    encoded = dah_data("encode", pictures, out, "--autoencoder", autoencoder)
    assert encoded["train_images"] == NUM_SAMPLES
    assert encoded["digest"] == DataManifest.load(out).digest
    assert dah_data("encode", pictures, out, "--autoencoder", autoencoder) == encoded
    with pytest.raises(ConfigError, match=r"did you mean 'images'\?"):
        dah_data("train-autoencoder", pictures, tmp_path / "other", "--set", "image=1")
    with pytest.raises(ConfigError, match=r"--autoencoder = .* cannot be loaded"):
        dah_data("encode", pictures, tmp_path / "other", "--autoencoder", pictures)
