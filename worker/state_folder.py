"""What a worker keeps from start to start, and where: its key, the runs it joined, its log, what it sent and did not.

One process at a time owns the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import filelock
from pydantic import AwareDatetime, ValidationError

from diffusion_at_home.config.toml import Section
from diffusion_at_home.errors import ConfigError, storage_errors
from worker.atomic_file import write_atomically

_GLANCE_SECONDS: Final = 0.05
"""Longer than another command looks whether a worker runs."""

_ERRAND_SECONDS: Final = 1.0
"""Longer than a command that only looks, or writes down a pause, has the lock: who owns it for good waits that out."""


class JoinedRun(Section):
    """A run this worker has been admitted to."""

    run_id: str
    title: str
    url: str
    """The run's address that answered last."""
    others: tuple[str, ...] = ()
    """Its further addresses."""
    joined_at: AwareDatetime
    """When it was last joined on the command line."""


class StateFolder:
    """The folder and the names in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def identity(self) -> Path:
        """The worker's private key."""
        return self._path / "identity.key"

    @property
    def last_join(self) -> Path:
        """When the worker last said it signed a Join."""
        return self._path / "last_join"

    @property
    def log(self) -> Path:
        """Events, one JSON object a line."""
        return self._path / "worker.log"

    @property
    def status(self) -> Path:
        """What the worker does now, see `worker.progress.Status`."""
        return self._path / "status.json"

    @property
    def control(self) -> Path:
        """Folder of the socket that a running worker listens on."""
        return self._path / "control"

    @property
    def pause(self) -> Path:
        """Its owner's pause, while there is one."""
        return self._path / "pause.json"

    @property
    def plans(self) -> Path:
        """Memory plans made so far."""
        return self._path / "plans"

    @property
    def traffic(self) -> Path:
        """Bytes by month, see `worker.conditions.traffic.Traffic`."""
        return self._path / "traffic.json"

    def residual(self, run_id: str) -> Path:
        """What encoding left out of a run's contributions so far."""
        return self._path / "residual" / f"{run_id}.safetensors"

    def receipts(self, run_id: str) -> Path:
        """What the run has received, one JSON object a line."""
        return self._path / "receipts" / f"{run_id}.jsonl"

    def all_receipts(self) -> list[Path]:
        """Of every run there are any of."""
        return sorted((self._path / "receipts").glob("*.jsonl"))

    def outbox(self, run_id: str) -> Path:
        """Folder of what was trained and not yet received."""
        return self._path / "pending" / run_id

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within, this process owns the folder. Raises `ConfigError` if another one does."""
        with locked(self._lock, "stop it or name another --state-dir"):
            yield

    @property
    def in_use(self) -> bool:
        """Whether a worker runs here now. Best asked of its socket: this takes the lock itself for a moment."""
        lock = filelock.FileLock(self._lock)
        try:
            lock.acquire(timeout=_GLANCE_SECONDS, poll_interval=0.01)
        except filelock.Timeout:
            return True
        lock.release()
        return False

    @property
    def _lock(self) -> Path:
        return self._path / "lock"

    def remember(self, run_id: str, title: str, urls: Sequence[str]) -> JoinedRun:
        """Note that the run was joined now and may be found at `urls`, the one that answers first."""
        before = [run.joined_at + timedelta(microseconds=1) for run in self.joined_runs() if run.run_id != run_id]
        now = max([datetime.now(UTC), *before])  # the last one joined, also by a clock that has been set back
        run = JoinedRun(run_id=run_id, title=title, url=urls[0], others=tuple(urls[1:]), joined_at=now)
        write_atomically(self._path / "runs" / f"{run_id}.json", run.model_dump_json(indent=1).encode())
        return run

    def joined_runs(self) -> list[JoinedRun]:
        """All joined runs, the latest first. Raises `ConfigError` if a file was damaged."""
        runs = [_read(path) for path in (self._path / "runs").glob("*.json")]
        return sorted(runs, key=lambda run: run.joined_at, reverse=True)

    def forget(self, run_id: str) -> None:
        """Know nothing of the run any more but what it owes: its receipts."""
        with storage_errors(self._path):
            (self._path / "runs" / f"{run_id}.json").unlink(missing_ok=True)
            self.residual(run_id).unlink(missing_ok=True)
            _delete(self.outbox(run_id))

    def forget_everything(self) -> None:
        """Delete all that a worker keeps here, its key and receipts too, and the folder if nothing else is in it."""
        with storage_errors(self._path):
            for name in ("runs", "pending", "residual", "receipts", "plans", "control"):
                _delete(self._path / name)
            for path in (
                self.identity,
                self.last_join,
                self.status,
                self.pause,
                self.traffic,
                *self._path.glob(f"{self.log.name}*"),
            ):
                path.unlink(missing_ok=True)
            self._lock.unlink(missing_ok=True)
            if not any(self._path.iterdir()):
                self._path.rmdir()


def _delete(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


@contextmanager
def locked(path: Path, advice: str) -> Iterator[None]:
    """Within, no other process holds the lock file `path`. Raises `ConfigError` with `advice` if one keeps it."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=_ERRAND_SECONDS, poll_interval=0.02)
        except filelock.Timeout:
            raise ConfigError(f"another worker uses {path.parent}: {advice}") from None
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> JoinedRun:
    try:
        return JoinedRun.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} is damaged ({error.errors()[0]['msg']}): delete it and join again") from None
