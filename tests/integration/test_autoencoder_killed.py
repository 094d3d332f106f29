"""`dah data train-autoencoder` as a process that is killed with -9 again and again: the same autoencoder comes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.square_pictures import build_squares
from tests.unit.tiny_run import REPOSITORY

STEPS = (60, 25)
"""After which the processes are killed, one after another."""

PATIENCE_SECONDS = 120.0

TRAINING = """
import sys
from datetime import timedelta
from pathlib import Path
from diffusion_at_home.model.autoencoder_training import train_autoencoder
from tests.unit.square_pictures import small_training

out = Path(sys.argv[2])
def on_images(images, loss): print(images, flush=True)
made = train_autoencoder(
    Path(sys.argv[1]), out, small_training("images=1600"), on_images=on_images, between_saves=timedelta(seconds=0.02)
)
"""
"""Saves far more often than the command does."""


def begin(pictures: Path, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(pictures), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=REPOSITORY,
    )


def facts(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


@pytest.mark.slow
def test_autoencoder_is_the_same_however_often_its_training_was_killed(tmp_path: Path) -> None:
    pictures, calm, killed = tmp_path / "pictures", tmp_path / "calm", tmp_path / "killed"
    build_squares(pictures)
    undisturbed = begin(pictures, calm)
    begun_at = []
    for steps in STEPS:
        process = begin(pictures, killed)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(steps)]
        begun_at.append(int(lines[0]))
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        assert not killed.exists()
    assert begun_at == sorted(begun_at)
    assert begun_at[-1] > begun_at[0], "it never goes on"
    last = begin(pictures, killed)
    for process in (last, undisturbed):
        process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0
    name = "diffusion_pytorch_model.safetensors"
    assert (killed / name).read_bytes() == (calm / name).read_bytes()
    assert facts(killed) == facts(calm)
