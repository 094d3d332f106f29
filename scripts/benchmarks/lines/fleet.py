"""The coordinator and the workers of a small run behind lines, and what the workers say of their time."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.lines.link import Line, Link, opened
from benchmarks.processes import CONFIG, dah, start
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder

_SPEEDS: Final = (50.0, 50.0, 100.0, 200.0)
"""Images a second."""

_LEFT_OUT: Final = 6
"""Rounds at the start: workers fetch a snapshot, and their pace is learned."""


_SMALLER: Final = 100
"""Sizes, against 860 million parameters."""

_SOONER: Final = 40
"""Times, against rounds of 20 minutes and 100 ms there and back; rates of lines are what leaves a transfer's share as it is."""

_LINE: Final = Line(
    up_bits_per_second=10e6 * _SOONER / _SMALLER,
    down_bits_per_second=50e6 * _SOONER / _SMALLER,
    delay_seconds=0.05 / _SOONER,
)
_ROUND_SECONDS: Final = 1200 / _SOONER

_RUN: Final = (
    "screening.enabled=false",  # a worker's deltas are all the same
    "run.total_images=100000000",
    "model.prx.hidden_size=304",  # 8.8 million parameters with the depth and heads below
    "model.prx.depth=4",
    "model.prx.heads=4",
    "inner.batch_images=4",
    f"round.images={int(sum(_SPEEDS) * _ROUND_SECONDS)}",
    f"round.max_seconds={2.5 * _ROUND_SECONDS}",
    "lease.min_steps=10",
    "lease.max_steps=10000",
    "lease.probe_steps=50",
    "lease.heartbeat_seconds=1.0",
    "lease.timeout_seconds=60.0",
    "evaluation.every_images=100000000",
    "evaluation.max_images=8",  # of the first version
    "checkpoint.every_images=100000000",
    "judging.every_images=0",
)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of a worker's time."""

    training: float
    encoding: float
    sending: float
    """The delta, until its receipt."""
    waiting: float
    """For the round to close and for work."""
    aggregating: float
    """Waited from the close of a round to its version: the same for all."""
    fetching: float
    """The update and shards."""
    applying: float
    """The update, and the check of what comes of it."""


def measure(overrides: Sequence[str], *, rounds: int) -> list[Shares]:
    """Each worker's shares over `rounds` rounds."""
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch, ExitStack() as stack:
        root = Path(scratch)
        dah("data", "build", "digits", str(root / "digits"))
        changes = [f"data.path='{root / 'digits'}'", *_RUN, *overrides]
        settings = [word for change in changes for word in ("--set", change)]
        folder = RunFolder(root / "run")
        dah("coordinator", "init", str(folder.root), "--config", str(CONFIG), *settings)
        log = stack.enter_context((root / "log").open("wb"))
        words = ["coordinator", "run", str(folder.root), "--http-port", "0", "--grpc-port", "0"]
        coordinator = start(stack, ["-m", "diffusion_at_home", *words], log.fileno())
        while not folder.address.is_file():
            assert coordinator.poll() is None, (root / "log").read_text()
            time.sleep(0.05)
        url = folder.address.read_text().strip()
        ports = [httpx2.URL(url).port or 0, httpx2.get(f"{url}/run.json").json()["grpc_port"]]
        hosts = [f"127.0.1.{index + 1}" for index in range(len(_SPEEDS))]
        stack.enter_context(opened([Link(_LINE, host, ports) for host in hosts]))
        states = [root / f"worker-{index}" for index in range(len(_SPEEDS))]
        for host, speed, state in zip(hosts, _SPEEDS, states, strict=True):
            words = [f"http://{host}:{ports[0]}", str(state), str(speed)]
            start(stack, ["-m", "benchmarks.idle_worker", *words], log.fileno())
        _wait_for(folder, _LEFT_OUT)
        closing_before, before = _closing_seconds(url), [_seconds(state) for state in states]
        _wait_for(folder, _LEFT_OUT + rounds)
        after = [_seconds(state) for state in states]
        closing_seconds = _closing_seconds(url) - closing_before
    return [_shares(one, other, closing_seconds) for one, other in zip(before, after, strict=True)]


def _wait_for(folder: RunFolder, version: int) -> None:
    while True:
        with closing(Ledger(folder.ledger, read_only=True)) as ledger:
            newest = ledger.newest_version()
        if newest.version >= version:
            print(f"version {newest.version}", file=sys.stderr, flush=True)
            return
        time.sleep(0.2)


def _seconds(state: Path) -> dict[str, float]:
    status: dict[str, Any] = json.loads((state / "status.json").read_text())
    found: dict[str, float] = status["seconds"]
    return found


def _closing_seconds(url: str) -> float:
    """From closing rounds to their versions, all together."""
    families = text_string_to_metric_families(httpx2.get(f"{url}/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return next(sample.value for sample in samples if sample.name == "dah_round_closing_seconds_sum")


def _shares(before: dict[str, float], after: dict[str, float], closing_seconds: float) -> Shares:
    spent = {state: after.get(state, 0.0) - before.get(state, 0.0) for state in Shares.__slots__}
    total = sum(spent.values())
    spent["waiting"] -= closing_seconds
    spent["aggregating"] = closing_seconds
    return Shares(**{state: seconds / total for state, seconds in spent.items()})
