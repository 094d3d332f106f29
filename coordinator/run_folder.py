"""Where everything of a run lies on the coordinator's disk, and the lock that keeps a second coordinator out."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_at_home.checkpoint.rotation import ROTATIONS_NAME
from diffusion_at_home.errors import ConfigError, storage_errors

_LOCK_TRIES: Final = 5
_LOCK_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder made by `dah coordinator init`."""

    root: Path

    @property
    def ledger(self) -> Path:
        """The file that the ledger is, or that names the server which has it."""
        return self.ledger_url if self.ledger_url.is_file() else self.ledger_file

    @property
    def ledger_file(self) -> Path:
        """SQLite: where the ledger is unless a server has it."""
        return self.root / "ledger.sqlite"

    @property
    def ledger_url(self) -> Path:
        """Address of the ledger in a server; readable by its owner alone, and there once the operator has moved it."""
        return self.root / "ledger.url"

    @property
    def blobs(self) -> Path:
        """Immutable files by sha256, served to everybody."""
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        """What is not yet a blob."""
        return self.root / "staging"

    @property
    def held_out(self) -> Path:
        """The shards nobody trains on; not served."""
        return self.root / "held_out"

    @property
    def autoencoder(self) -> Path:
        """Of a run in latents: what decodes them, as diffusers saves it; not served but in checkpoints."""
        return self.root / "autoencoder"

    @property
    def tls(self) -> Path:
        """The run's own certificate and its key, readable by their owner alone."""
        return self.root / "tls"

    @property
    def receipt_key(self) -> Path:
        """The run's own key, with which it signs receipts; readable by its owner alone."""
        return self.root / "receipts.key"

    @property
    def rotations(self) -> Path:
        """By which the run's release key has passed to others; there once the operator has put it there."""
        return self.root / ROTATIONS_NAME

    @property
    def state(self) -> Path:
        """Between two rounds: state-<version>.safetensors, and the anchor-<version>.safetensors."""
        return self.root / "state"

    @property
    def damaged(self) -> Path:
        """What was found not to be what it was: never served or read again, for people to look at."""
        return self.root / "damaged"

    @property
    def layout(self) -> Path:
        """Where each tensor lies in the run's vectors: a digest, and what it is the digest of."""
        return self.root / "layout.json"

    @property
    def exports(self) -> Path:
        """Versions that wait for evaluation or export."""
        return self.root / "exports"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint, served to everybody."""
        return self.root / "checkpoints"

    @property
    def judging(self) -> Path:
        """What the checkpoint that is being judged is judged in; not there while none is."""
        return self.root / "judging"

    @property
    def judgements(self) -> Path:
        """One folder of drawn pictures a judged checkpoint, and what is made anew from all of them; served to everybody."""
        return self.root / "judgements"

    @property
    def encoder(self) -> Path:
        """In whose features pictures are compared: the same for the whole run; not served."""
        return self.root / "encoder"

    @property
    def pictures(self) -> Path:
        """A data set that drawn pictures are compared with, where that is not the run's own; not served."""
        return self.root / "pictures"

    @property
    def elsewhere(self) -> Path:
        """Where else the run's bytes are; there once the operator has put it there."""
        return self.root / "elsewhere.toml"

    @property
    def log(self) -> Path:
        """Events as JSON lines."""
        return self.root / "coordinator.log"

    @property
    def backup_mark(self) -> Path:
        """What only a backup has, which is no folder to serve from."""
        return self.root / "backup.json"

    @property
    def address(self) -> Path:
        """URL at which the coordinator that holds the lock can be reached."""
        return self.root / "address"

    @property
    def alerts(self) -> Path:
        """Where the operator is told of problems; readable by its owner alone, and there once the operator has set it."""
        return self.root / "alerts.json"

    @property
    def login(self) -> Path:
        """Hash and end of the newest code for the operator's page; there until it is used."""
        return self.root / "login.json"

    @property
    def quota(self) -> Path:
        """GiB that the coordinator which holds the lock was given instead of storage.quota_gib; not there otherwise."""
        return self.root / "quota"

    def check(self) -> None:
        """Raise `ConfigError` if there is no run."""
        if not self.ledger.is_file():
            raise ConfigError(
                f"{self.root} is not a run: make one with `dah coordinator init {self.root} --config FILE`"
            )

    @contextmanager
    def locked(self, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the folder alone. Raises `ConfigError` if there is no run, or a backup, or another process holds it.

        With `wait`, that is told once who holds it, and then waited until nobody does.
        """
        self.check()
        if self.backup_mark.exists():
            raise ConfigError(
                f"{self.root} is a backup: make a run of it with `dah coordinator restore {self.root} DIR`, and serve that"
            )
        with storage_errors(self.root), (self.root / "lock").open("a+") as file:
            if not _lock(file.fileno()):
                file.seek(0)
                used = f"{self.root} is in use by process {file.read().strip() or '?'}"
                if wait is None:
                    raise ConfigError(f"{used}: stop it first")
                wait(used)
                while not _try_lock(file.fileno()):
                    time.sleep(_LOCK_PAUSE_SECONDS)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def is_running(self) -> bool:
        """Whether a coordinator holds the folder now."""
        lock = self.root / "lock"
        if not lock.is_file():
            return False
        with lock.open("r+") as file:
            return not _try_lock(file.fileno())


def _lock(descriptor: int) -> bool:
    """Take the lock, or see that somebody keeps it: who only asks (`is_running`) has it for a moment."""
    for _ in range(_LOCK_TRIES):
        if _try_lock(descriptor):
            return True
        time.sleep(_LOCK_PAUSE_SECONDS)
    return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
