"""A whole worker in the test's own process, so that a test can reach into what no command shows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from worker.daemon import Daemon
from worker.joining import workplace
from worker.loop import Goal
from worker.progress import Status
from worker.settings import Device, WorkerSettings
from worker.state_folder import StateFolder
from worker.steppers import OpenStepper, open_stepper


def work_here(
    root: Path,
    url: str,
    goal: Goal,
    open_stepper: OpenStepper = open_stepper,
    stop_when: Callable[[Status], bool] | None = None,
) -> Status:
    """Work for the run at `url` until `goal`, or until the status is as `stop_when` says; returns the last status."""
    root.mkdir(exist_ok=True)  # of a worker that starts again
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
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(daemon, stop_when, over)) if stop_when else None
    if watch:
        watch.start()
    try:
        daemon.run(workplace(folder, [url]), goal)
    finally:
        over.set()
        if watch:
            watch.join()
    return daemon.progress.status


def _watch(daemon: Daemon, stop_when: Callable[[Status], bool], over: threading.Event) -> None:
    while not over.wait(0.05):
        if stop_when(daemon.progress.status):
            daemon.permission.stop()
