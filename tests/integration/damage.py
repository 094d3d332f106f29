"""Bytes that flip on a coordinator's disk, and what it says of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.integration.live_run import LiveRun, Volunteer, encoded

PATIENCE_SECONDS = 60.0

ROUNDS = ("round.images=8", "lease.min_steps=1", "lease.probe_steps=1", "lease.max_steps=1")
"""Each a contribution of one step."""


def flip(path: Path, share: float = 0.5) -> None:
    """One bit after a `share` of the file; again, and it is as it was."""
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)


def until(found: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not found():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def train(run: LiveRun, anna: Volunteer, upto: int) -> None:
    """Round after round, until version `upto` is published."""
    for number in range(run.status()["version"] + 1, upto + 1):
        anna.submit(anna.lease(), encoded(run, 0.001 * number))
        run.wait_for_version(number)


def problems(run: LiveRun) -> dict[str, str]:
    """Their sentences, by name."""
    return {problem["name"]: problem["sentence"] for problem in run.status()["live"]["problems"]}
