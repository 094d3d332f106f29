"""Our rounds: a coordinator and two workers, each a process, perhaps in networks of their own."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import CONFIG, dah, start
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder

NUM_WORKERS: Final = 2
_BATCH: Final = 8
_LEFT_OUT: Final = 3
"""Rounds at the start."""

_RUN: Final = (
    f"inner.batch_images={_BATCH}",
    f"round.images={NUM_WORKERS * _BATCH}",
    "lease.min_steps=1",
    "lease.max_steps=1",
    "lease.probe_steps=1",
    "round.quorum=1.0",
    "evaluation.every_images=1000000000",
    "evaluation.max_images=8",  # of the first version
    "checkpoint.every_images=1000000000",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the rounds took."""

    seconds: tuple[float, ...]
    """Of each round."""
    uplink_bytes: float
    """Of a contribution, a parameter."""
    downlink_bytes: float
    """Of an update, a parameter."""
    num_parameters: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes run: words before their commands, and the coordinator's address."""

    coordinator: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    host: str = "127.0.0.1"


class Fleet:
    """A run under way, read from its ledger."""

    def __init__(self, folder: RunFolder, coordinator: subprocess.Popen[bytes], log: Path) -> None:
        self.folder = folder
        self._coordinator = coordinator
        self._log = log

    def await_version(self, version: int, *, poll_seconds: float = 0.5) -> int:
        """Wait until `version` is published; hand back the newest one."""
        while (newest := _newest_version(self.folder)) < version:
            self.check()
            time.sleep(poll_seconds)
        return newest

    @property
    def num_parameters(self) -> int:
        """Elements of a delta."""
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            return _num_parameters(ledger)

    def check(self) -> None:
        """Fail if the coordinator has ended."""
        assert self._coordinator.poll() is None, self._log.read_text()


@contextmanager
def fleet(overrides: Sequence[str], place: Place = Place()) -> Iterator[Fleet]:
    """Run what `overrides` of configs/digits.toml describe, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch, ExitStack() as stack:
        root = Path(scratch)
        dah("data", "build", "digits", str(root / "digits"))
        changes = [
            f"data.path='{root / 'digits'}'",
            f"server.host='{place.host}'",
            *_RUN,
            "run.total_images=1000000",
            *overrides,
        ]
        folder = root / "run"
        settings = [word for change in changes for word in ("--set", change)]
        dah("coordinator", "init", str(folder), "--config", str(CONFIG), *settings)
        log = stack.enter_context((root / "log").open("wb"))
        command = ["-m", "diffusion_at_home", "coordinator", "run", str(folder), "--http-port", "0", "--grpc-port", "0"]
        coordinator = start(stack, command, log.fileno(), place.coordinator)
        found = Fleet(RunFolder(folder), coordinator, root / "log")
        address = folder / "address"
        while not address.is_file():
            found.check()
            time.sleep(0.05)
        for index in range(NUM_WORKERS):
            words = ["-m", "benchmarks.idle_worker", address.read_text(), str(root / f"worker-{index}")]
            start(stack, words, log.fileno(), place.worker)
        yield found


def measure(overrides: Sequence[str], *, rounds: int) -> Measured:
    """Run `rounds` rounds of the run that `overrides` of configs/digits.toml describe."""
    with fleet(overrides) as running:
        running.await_version(rounds + 1)
        return _measured(running.folder)


def _newest_version(folder: RunFolder) -> int:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.newest_version().version


def _measured(folder: RunFolder) -> Measured:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        history = ledger.versions()
        num_parameters = _num_parameters(ledger)
        at = [version.published_at_ms / 1000 for version in history]
        up = [c.size_bytes for version in history[1:] for c in ledger.contributions(version.version)]
        down = [version.update_bytes for version in history[1:]]
    seconds = tuple(later - sooner for sooner, later in zip(at[_LEFT_OUT:-1], at[_LEFT_OUT + 1 :], strict=True))
    return Measured(seconds, sum(up) / len(up) / num_parameters, sum(down) / len(down) / num_parameters, num_parameters)


def _num_parameters(ledger: Ledger) -> int:
    return (ledger.versions()[0].snapshot_bytes - 28) // 4
