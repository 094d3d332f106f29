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
    "screening.enabled=false",  # a worker's deltas are all the same
    f"inner.batch_images={_BATCH}",
    f"round.images={NUM_WORKERS * _BATCH}",
    "lease.min_steps=1",
    "lease.max_steps=1",
    "lease.probe_steps=1",
    "round.quorum=1.0",
    "evaluation.every_images=1000000000",
    "evaluation.max_images=8",  # of the first version
    "checkpoint.every_images=1000000000",
    "judging.every_images=0",
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

    def __init__(self, folder: RunFolder, coordinator: subprocess.Popen[bytes], log: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._coordinator = coordinator
        self._log = log
        self._stack = stack

    def start(self, arguments: Sequence[str], before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start python with `arguments` as `benchmarks.processes.start` does, until the end of the fleet."""
        log = self._stack.enter_context(self._log.open("ab"))
        return start(self._stack, arguments, log.fileno(), before)

    def start_workers(self, before: Sequence[str] = ()) -> None:
        """All of them; once."""
        for index in range(NUM_WORKERS):
            worker = str(self.folder.root.with_name(f"worker-{index}"))
            self.start(["-m", "benchmarks.idle_worker", self.url, worker], before)

    def await_version(self, version: int, *, poll_seconds: float = 0.5) -> int:
        """Wait until `version` is published; hand back the newest one."""
        while (newest := self.newest_version) < version:
            self.check()
            time.sleep(poll_seconds)
        return newest

    @property
    def newest_version(self) -> int:
        """That is published."""
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            return ledger.newest_version().version

    @property
    def url(self) -> str:
        """The run's address."""
        return self.folder.address.read_text().strip()

    @property
    def coordinator_pid(self) -> int:
        """Of the coordinator's process."""
        return self._coordinator.pid

    @property
    def num_parameters(self) -> int:
        """Elements of a delta."""
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            return _num_parameters(ledger)

    def await_evaluation(self) -> None:
        """Wait for that of the first version: it would take a core from what is measured."""
        while not self._evaluated:
            self.check()
            time.sleep(0.2)

    @property
    def _evaluated(self) -> bool:
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            return bool(ledger.evaluations())

    def check(self) -> None:
        """Fail if the coordinator has ended."""
        assert self._coordinator.poll() is None, self._log.read_text()


@contextmanager
def coordinator(overrides: Sequence[str], place: Place = Place()) -> Iterator[Fleet]:
    """Run what `overrides` of configs/digits.toml describe, without workers, until the end of the block."""
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
        log = stack.enter_context((root / "log").open("ab"))
        command = ["-m", "diffusion_at_home", "coordinator", "run", str(folder), "--http-port", "0", "--grpc-port", "0"]
        process = start(stack, command, log.fileno(), place.coordinator)
        found = Fleet(RunFolder(folder), process, root / "log", stack)
        while not found.folder.address.is_file():
            found.check()
            time.sleep(0.05)
        yield found


@contextmanager
def fleet(overrides: Sequence[str], place: Place = Place()) -> Iterator[Fleet]:
    """Such a run with its workers."""
    with coordinator(overrides, place) as running:
        running.start_workers(place.worker)
        yield running


def measure(overrides: Sequence[str], *, rounds: int) -> Measured:
    """Run `rounds` rounds of the run that `overrides` of configs/digits.toml describe."""
    with fleet(overrides) as running:
        running.await_version(rounds + 1)
        return _measured(running.folder)


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
