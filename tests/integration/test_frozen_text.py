"""A run with a frozen text encoder, from the operator's folder to a worker's lease, a held-out loss and a drawn checkpoint."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from transformers import T5EncoderModel

from coordinator.init import init_run
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import load_manifest
from diffusion_at_home.frozen_text import FrozenKind
from diffusion_at_home.model.autoencoder import weights_digest
from tests.integration.daemon_here import work_here
from tests.integration.live_run import LiveRun, serving
from tests.integration.test_coordinator_start import spec_of
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_run import CAPTIONS, tiny_config
from tests.unit.tiny_text_encoder import frozen_overrides, save_text_encoder
from worker.loop import Goal
from worker.memory.choice import GIB, Machine
from worker.memory.command import Imagined, plan_command
from worker.progress import WorkerState


def exported(run: LiveRun) -> str:
    deadline, pause = time.monotonic() + 200, threading.Event()
    while not (checkpoints := run.status()["checkpoints"]):
        assert time.monotonic() < deadline, "no checkpoint comes"
        pause.wait(0.2)  # the exporter is of this process
    name: str = checkpoints[-1]["name"]
    return name


def test_workers_encode_captions_and_train_and_the_checkpoint_draws_with_the_operators_encoder(tmp_path: Path) -> None:
    build_tiny_data(tmp_path / "data")
    operators = save_text_encoder(tmp_path / "encoder", FrozenKind.T5)
    folder = RunFolder(tmp_path / "run")
    few = ("evaluation.draws=1", "evaluation.max_images=4", "checkpoint.sampling_steps=2", "lease.probe_steps=2")
    config = tiny_config(
        f"data.path='{tmp_path / 'data'}'",
        *frozen_overrides("prx", tmp_path / "encoder", tmp_path),
        *few,
        "run.total_images=32",
        "round.images=16",
        "checkpoint.every_images=16",
        f"checkpoint.grid_prompts={list(CAPTIONS)}",
    )
    init_run(folder, config)
    with serving(folder) as run:
        here = Machine(8 * GIB, 8 * GIB, is_gpu=False, bf16=False)
        _, planned = plan_command(run.url, here, Imagined(None, None, None), try_all=False)
        assert planned["encoding"]["place"] == "host"
        assert planned["encoding"]["gib"] < 0.1 < planned["chosen"]["host_gib"]
        status = work_here(tmp_path / "worker", run.url, Goal(leases=1))
        assert status.images_total == 16
        assert status.seconds[WorkerState.ENCODING] > 0
        name = exported(run)
    with serving(folder) as run:  # a start deletes blobs that nothing names
        assert all((folder.blobs / sha256).is_file() for sha256 in spec_of(folder).blobs)
    cached = list((tmp_path / "worker" / "cache" / "blobs").glob("*.captions-*"))
    assert cached
    checkpoint = folder.checkpoints / name
    spec = spec_of(folder)
    assert spec.text_encoder is not None
    loaded = T5EncoderModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32)
    assert weights_digest(loaded) == spec.text_encoder.digest == weights_digest(operators)
    pipeline = DiffusionPipeline.from_pretrained(checkpoint)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(CAPTIONS[0], **load_manifest(checkpoint).call).images[0].size == (4, 4)
    for path in checkpoint.rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path
