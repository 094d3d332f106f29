"""A whole worker in the test's own process, so that a test can reach into what no command shows."""

from __future__ import annotations

from pathlib import Path

from worker.daemon import Daemon
from worker.joining import workplace
from worker.loop import Goal
from worker.progress import Status
from worker.settings import Device, WorkerSettings
from worker.state_folder import StateFolder
from worker.steppers import OpenStepper, open_stepper


def work_here(root: Path, url: str, goal: Goal, open_stepper: OpenStepper = open_stepper) -> Status:
    """Work for the run at `url` until `goal`; returns the last status."""
    root.mkdir()
    settings = WorkerSettings(
        device=Device.CPU,
        threads=1,
        retry_floor_seconds=0.5,
        retry_ceiling_seconds=1.0,
        state_dir=root,
        cache_dir=root / "cache",
    )
    folder = StateFolder(root)
    daemon = Daemon(settings, folder, open_stepper, require_sound=lambda _: None)
    daemon.run(workplace(folder, [url]), goal)
    return daemon.progress.status
