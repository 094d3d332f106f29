"""Looks at the judging processes of a coordinator, as the operating system sees them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from diffusion_at_home.evaluation.small_encoder import SmallEncoder
from tests.faults.processes import wait_until

FIRST_TO_GO = "1000"
"""When the machine has no memory left."""

JUDGED = (
    "judging.every_images=1",
    "judging.pictures=10",
    "judging.real=100",
    "round.images=16",
    "lease.probe_steps=2",
    "evaluation.every_images=1000000",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.every_images=32",
    "checkpoint.sampling_steps=1",
)
"""A run of small rounds, every second of which ends in a checkpoint that is judged."""


def judging_processes(coordinator: int | None = None) -> list[psutil.Process]:
    """Of the coordinator with that process id; None is this process."""
    found = []
    for process in psutil.Process(coordinator or os.getpid()).children():
        with suppress(psutil.NoSuchProcess):
            if "coordinator.judging.child" in process.cmdline():
                found.append(process)
    return found


def judging_process(coordinator: int | None = None) -> psutil.Process:
    """The one that there is, once it has taken its place behind all others."""
    (process,) = wait_until(lambda: judging_processes(coordinator))
    wait_until(lambda: Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == FIRST_TO_GO)
    return process


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ready_encoder(root: Path) -> str:
    """An override that names an encoder, so that none has to be trained first."""
    pictures = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    SmallEncoder.train(pictures, "d" * 64, steps=1).save(root / "encoder")
    return f"judging.encoder='{root / 'encoder'}'"
