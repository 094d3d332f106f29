"""What the worker does, why, and what it has done: one record, written to a file for others and drawn for its owner."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, Field, ValidationError

from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.toml import Section
from diffusion_at_home.errors import ConfigError, RetryCall
from worker.atomic_file import write_atomically
from worker.conditions.hindrance import Hindrance, IdleReason

_WRITE_SECONDS: Final = 1.0
"""Between two writes of the file while nothing but numbers change; a lease's first step is told at once."""

_log = events.logger("worker")


class WorkerState(StrEnum):
    """What it does."""

    STARTING = "starting"
    WAITING = "waiting"
    FETCHING = "fetching"
    APPLYING = "applying"
    """Weights that have come are read and checked."""
    TRAINING = "training"
    ENCODING = "encoding"
    SENDING = "sending"
    PAUSED = "paused"
    """By its owner's wish or rules: see `Status.idle_reason`. Nothing is held, on the device neither."""
    STOPPED = "stopped"


class Status(Section):
    """The worker at one moment."""

    pid: int
    run_id: str = ""
    worker_id: str = ""
    device: str = ""
    """cpu or cuda."""
    plan: str = ""
    """How it takes a training step."""
    state: WorkerState = WorkerState.STARTING
    reason: str = ""
    """Why it is in that state, for people; never empty while waiting."""
    idle_reason: IdleReason | None = None
    """Which wish or rule keeps it from working; only while it is paused."""
    until: AwareDatetime | None = None
    """When that will have passed, if that is known."""
    version: int = 0
    """Base version of the current or last lease."""
    lease_images: int = 0
    """Images trained in the current lease."""
    lease_quota_images: int = 0
    """Images of the current lease."""
    images_per_second: float = 0.0
    """Over the last leases; 0 until something was measured."""
    loss: float | None = None
    """Mean training loss of the lease so far."""
    images_total: int = 0
    """Images credited since the start."""
    leases_done: int = 0
    """Receipts since the start."""
    refusals: dict[str, int] = Field(default_factory=dict)
    """Leases that came to nothing, by reason."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Contributions that had their receipt and did not count, by reason."""
    seconds: dict[WorkerState, float] = Field(default_factory=dict)
    """Spent in each state since the start, the current one not counted."""
    bytes_up: int = 0
    bytes_down: int = 0
    updated_at: AwareDatetime


class Progress:
    """The one owner of the status: told of bytes from any thread, of everything else from the main one."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """`path` is where the status is written."""
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._status = Status(pid=os.getpid(), updated_at=datetime.now(UTC))
        self._written_at = self._entered_at = clock.now()

    @property
    def status(self) -> Status:
        """The latest."""
        return self._status

    def identify(self, *, run_id: str, worker_id: str, device: str) -> None:
        """Say who this is."""
        self._write(run_id=run_id, worker_id=worker_id, device=device)

    def enter(self, state: WorkerState, reason: str) -> None:
        """Be in `state` because of `reason`."""
        self._enter(state, reason, idle_reason=None, until=None)

    def rest(self, hindrance: Hindrance) -> None:
        """Be paused because of `hindrance`."""
        self._enter(WorkerState.PAUSED, hindrance.sentence, idle_reason=hindrance.reason, until=hindrance.until)

    def _enter(self, state: WorkerState, reason: str, **idle: object) -> None:
        before = self._status
        if state is not before.state:
            now = self._clock.now()
            spent = before.seconds.get(before.state, 0.0) + now - self._entered_at
            self._entered_at = now
            self._write(state=state, reason=reason, seconds=before.seconds | {before.state: spent}, **idle)
        elif reason != before.reason:
            self._write(reason=reason, **idle)

    @contextmanager
    def waiting(self, why: RetryCall) -> Iterator[None]:
        """Within, the worker waits for the coordinator; afterwards it is back where it was."""
        before = self._status
        _log.warning("waiting_for_coordinator", reason=str(why))
        self.enter(WorkerState.WAITING, str(why))
        try:
            yield
        finally:
            self.enter(before.state, before.reason)

    def granted(self, version: int, quota_images: int) -> None:
        """A lease has begun."""
        self._write(version=version, lease_quota_images=quota_images, lease_images=0, loss=None)

    def planned(self, plan: str) -> None:
        """The lease's training begins, or begins again, by `plan`."""
        self._write(plan=plan, lease_images=0, loss=None)

    def training(self) -> None:
        """A step begins."""
        self.enter(WorkerState.TRAINING, f"version {self._status.version}")

    def trained(self, images: int, loss: float) -> None:
        """A step of the lease is done, of which `images` are trained; `loss` is this step's."""
        status = self._status
        step_share = (images - status.lease_images) / images
        mean = loss if status.loss is None else status.loss + (loss - status.loss) * step_share
        self._set(lease_images=images, loss=mean)
        self.training()
        if status.lease_images == 0 or self._clock.now() - self._written_at >= _WRITE_SECONDS:
            self._write()

    def measured(self, images_per_second: float) -> None:
        """The worker's speed over the last leases."""
        self._set(images_per_second=images_per_second)

    def credited(self, images: int) -> None:
        """A receipt has come."""
        self._write(images_total=self._status.images_total + images, leases_done=self._status.leases_done + 1)

    def lost(self, reason: str) -> None:
        """A lease came to nothing."""
        refusals = self._status.refusals
        self._write(refusals=refusals | {reason: refusals.get(reason, 0) + 1})

    def left_out(self, reason: str) -> None:
        """A contribution that had its receipt did not count in its round."""
        left_out = self._status.left_out
        self._write(left_out=left_out | {reason: left_out.get(reason, 0) + 1})

    def sent(self, num_bytes: int) -> None:
        """Count bytes up."""
        with self._lock:
            self._status = self._status.model_copy(update={"bytes_up": self._status.bytes_up + num_bytes})

    def received(self, num_bytes: int) -> None:
        """Count bytes down."""
        with self._lock:
            self._status = self._status.model_copy(update={"bytes_down": self._status.bytes_down + num_bytes})

    def _set(self, **changes: object) -> None:
        with self._lock:
            self._status = self._status.model_copy(update=changes)

    def _write(self, **changes: object) -> None:
        self._set(**changes, updated_at=datetime.now(UTC))
        write_atomically(self._path, self._status.model_dump_json(indent=1).encode())
        self._written_at = self._clock.now()


def read_status(path: Path) -> Status:
    """What a worker has written to `path`. Raises `ConfigError` if there is nothing."""
    try:
        return Status.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"no worker has run in {path.parent}: start one with dah worker run") from None
    except ValidationError:
        raise ConfigError(f"{path} was written by another version of this software: start the worker again") from None
