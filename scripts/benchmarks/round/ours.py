"""Our rounds: a coordinator and two workers, each a process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import CONFIG, dah, start
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder

_WORKERS: Final = 2
_BATCH: Final = 8
_LEFT_OUT: Final = 3
"""Rounds at the start."""

_RUN: Final = (
    f"inner.batch_images={_BATCH}",
    f"round.images={_WORKERS * _BATCH}",
    "lease.min_steps=1",
    "lease.max_steps=1",
    "lease.probe_steps=1",
    "round.quorum=1.0",
    "evaluation.every_images=1000000000",
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


def measure(overrides: Sequence[str], *, rounds: int) -> Measured:
    """Run `rounds` rounds of the run that `overrides` of configs/digits.toml describe."""
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch, ExitStack() as stack:
        root = Path(scratch)
        dah("data", "build", "digits", str(root / "digits"))
        changes = [
            f"data.path='{root / 'digits'}'",
            *_RUN,
            "run.total_images=1000000",
            *overrides,
        ]
        folder = root / "run"
        settings = [word for change in changes for word in ("--set", change)]
        dah("coordinator", "init", str(folder), "--config", str(CONFIG), *settings)
        log = stack.enter_context((root / "log").open("wb"))
        ports = ("--http-port", "0", "--grpc-port", "0")
        coordinator = start(stack, ["-m", "diffusion_at_home", "coordinator", "run", str(folder), *ports], log.fileno())
        address = folder / "address"
        while not address.is_file():
            assert coordinator.poll() is None, (root / "log").read_text()
            time.sleep(0.05)
        for index in range(_WORKERS):
            words = ["-m", "benchmarks.idle_worker", address.read_text(), str(root / f"worker-{index}")]
            start(stack, words, log.fileno())
        found = RunFolder(folder)
        while _num_versions(found) <= rounds:
            assert coordinator.poll() is None, (root / "log").read_text()
            time.sleep(0.5)
        return _measured(found)


def _num_versions(folder: RunFolder) -> int:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.newest_version().version


def _measured(folder: RunFolder) -> Measured:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        history = ledger.versions()
        num_parameters = (history[0].snapshot_bytes - 28) / 4
        at = [version.published_at_ms / 1000 for version in history]
        up = [c.size_bytes for version in history[1:] for c in ledger.contributions(version.version)]
        down = [version.update_bytes for version in history[1:]]
    seconds = tuple(later - sooner for sooner, later in zip(at[_LEFT_OUT:-1], at[_LEFT_OUT + 1 :], strict=True))
    return Measured(seconds, sum(up) / len(up) / num_parameters, sum(down) / len(down) / num_parameters)
