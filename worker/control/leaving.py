"""Forgetting: a run, or all that a worker keeps on this machine. Only while no worker runs."""

from __future__ import annotations

import shutil

from diffusion_at_home.errors import storage_errors
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder, locked


def forget(folder: StateFolder, run_id: str) -> None:
    """Know nothing of the run any more but its receipts. Raises `ConfigError` if a worker runs, and `StorageError`."""
    with folder.locked():
        folder.forget(run_id)


def forget_all(folder: StateFolder, settings: WorkerSettings) -> None:
    """Delete state and downloads, and nothing that was not the worker's. Raises as `forget`."""
    lock = settings.cache_dir / "blobs.lock"
    with folder.locked(), locked(lock, "stop it"), storage_errors(settings.cache_dir):
        blobs = settings.cache_dir / "blobs"
        if blobs.is_dir():
            shutil.rmtree(blobs)
        lock.unlink(missing_ok=True)
        if not any(settings.cache_dir.iterdir()):
            settings.cache_dir.rmdir()
        folder.forget_everything()
