"""A worker that is ours but for the training, which takes its time and computes nothing.

python -m benchmarks.idle_worker URL FOLDER [IMAGES_PER_SECOND]: its deltas are the same made-up numbers every time, other
ones for each FOLDER's name.
"""

from __future__ import annotations

import math
import sys
import time
import zlib
from pathlib import Path

import torch
from torch import Tensor

from diffusion_at_home.wire.layout import Layout
from worker.daemon import Daemon
from worker.joining import workplace
from worker.loop import Goal
from worker.settings import Device, WorkerSettings
from worker.state_folder import StateFolder
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn
from worker.steppers import TrainingSite
from worker.stop import on_signals


class Idle:
    """See `Stepper`."""

    plan = StepPlan()

    def __init__(self, num_elements: int, images_per_second: float, seed: int) -> None:
        self._images_per_second = images_per_second
        self._delta = 1e-3 * torch.randn(num_elements, generator=torch.Generator().manual_seed(seed))

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        """See `Stepper.start`."""

    def step(self, drawn: Drawn) -> float:
        """See `Stepper.step`."""
        time.sleep(len(drawn.captions) / self._images_per_second)
        return 0.5

    def delta(self) -> Tensor:
        """See `Stepper.delta`."""
        return self._delta

    def close(self) -> None:
        """See `Stepper.close`."""


if __name__ == "__main__":
    url, root, speed = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else math.inf

    def _idle(site: TrainingSite, layout: Layout, plan: StepPlan) -> Idle:  # noqa: ARG001
        return Idle(layout.num_elements, speed, zlib.crc32(root.name.encode()))

    settings = WorkerSettings(device=Device.CPU, threads=1, state_dir=root, cache_dir=root / "cache")
    folder = StateFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    daemon = Daemon(settings, folder, _idle)
    with on_signals(daemon.permission.stop):
        daemon.run(workplace(folder, [url]), Goal())
