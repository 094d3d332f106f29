"""Digits to an autoencoder of their own, to latents, to a run, to a lease that a worker trains on them."""

from __future__ import annotations

from pathlib import Path

from coordinator.init import init_run
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.build import build
from diffusion_at_home.data.encode import encode
from diffusion_at_home.model.autoencoder import encoder_of, open_autoencoder
from diffusion_at_home.model.autoencoder_training import AutoencoderTraining, train_autoencoder
from tests.integration.daemon_here import work_here
from tests.integration.live_run import serving
from tests.unit.tiny_run import tiny_config
from worker.loop import Goal

SMALL = ("block_out_channels=[8, 8]", "groups=4", "images=96", "batch_images=32")


def test_digits_become_latents_of_their_own_autoencoder_and_a_worker_trains_on_them(tmp_path: Path) -> None:
    digits, latents, folder = tmp_path / "digits", tmp_path / "latents", RunFolder(tmp_path / "run")
    build("digits", digits)
    made = train_autoencoder(digits, tmp_path / "autoencoder", load_toml(None, AutoencoderTraining, SMALL))
    autoencoder = open_autoencoder(made.folder, named_by="a test")
    encode(digits, latents, encoder_of(autoencoder))
    init_run(
        folder,
        tiny_config(
            f"data.path='{latents}'",
            "model.image_size=8",
            f"model.latents.autoencoder='{made.folder}'",
            "model.latents.channels=4",
            "model.latents.factor=2",
            "objective.prediction='velocity'",
            "lease.probe_steps=2",
            "evaluation.max_images=8",
            "evaluation.draws=1",
        ),
    )
    with serving(folder) as run:
        status = work_here(tmp_path / "worker", run.url, Goal(leases=1))
        assert status.images_total == 16
        while not (evaluations := run.status()["evaluations"]):
            pass
    assert all(0.1 < evaluation["mean"] < 10 for evaluation in evaluations)
