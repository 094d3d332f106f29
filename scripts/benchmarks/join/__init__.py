"""Joining: what a newcomer's download takes, what a cut line costs it, and what it costs those who are at work.

A model of 160 MB (fp32), all on loopback. The download is the worker's own code from an idle coordinator, with hashing; the cut
comes at half of it. Then two workers that train nothing go from round to round, as in the benchmark of rounds, by turns alone and
beside joiners who download the newest weights one after another, on a home line or as fast as loopback carries. Joiners are
processes with the least claim to the processor, for their own would be another machine's; between turns they are stopped.
"""

from __future__ import annotations

import math
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import httpx2

from benchmarks.figures import Figure
from benchmarks.join.cut import cut_line
from benchmarks.join.joiner import download, newest_weights
from benchmarks.round import MODELS, ours
from coordinator.ledger import Ledger

_LEFT_OUT: Final = 3
"""Rounds at the start, in which workers fetch a snapshot and measure their speed."""

_JOINERS: Final = {"home_line": 100e6 / 8, "loopback": math.inf}
"""Bytes a second of a joiner's line."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    megabytes: int
    """Of the model, of `MODELS`."""
    downloads: int
    turns: int
    """Windows of rounds with each kind of joiners, and as many without."""


_FULL: Final = Extent(megabytes=160, downloads=9, turns=4)
_QUICK: Final = Extent(megabytes=40, downloads=3, turns=3)
_ROUNDS: Final = 2
"""Of a window."""
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- a joiner's disk would be another machine's, too


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    extent = _QUICK if quick else _FULL
    with ours.coordinator([*MODELS[extent.megabytes], *overrides]) as running:
        running.await_evaluation()
        figures = _downloads(running, extent.downloads)
        running.start_workers()
        running.await_version(_LEFT_OUT)
        return figures | _rounds(running, extent.turns)


def _downloads(idle: ours.Fleet, downloads: int) -> dict[str, Figure]:
    (snapshot,) = newest_weights(idle.folder)
    size, port = snapshot.size_bytes, httpx2.URL(idle.url).port or 0
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch:
        whole = [download(idle.url, [snapshot], math.inf, Path(scratch)) for _ in range(downloads)]
        rate = _JOINERS["home_line"]
        limited = [size / rate / download(idle.url, [snapshot], rate, Path(scratch)) for _ in range(2)]
        cut = []
        for _ in range(downloads):
            with cut_line(port, size // 2) as line:
                download(f"http://127.0.0.1:{line.port}", [snapshot], math.inf, Path(scratch))
            cut.append(line.down_bytes / size)
    print(f"{size / 1e6 / statistics.median(whole):.0f} MB/s", file=sys.stderr, flush=True)
    return {
        "download": Figure(tuple(size / 1e6 / seconds for seconds in whole), "MB/s"),
        "limited_download": Figure(tuple(limited), "share of a limit of 100 Mbit/s, with hashing"),
        "bytes_of_a_cut_download": Figure(tuple(cut), "share of the size"),
    }


def _rounds(busy: ours.Fleet, turns: int) -> dict[str, Figure]:
    """By turns of few rounds, so that what else this machine does meets all alike."""
    with ExitStack() as stack:
        joiners = {name: _joiner(busy, name, stack) for name in _JOINERS}
        alone, beside = _turns(busy, joiners, turns)
    ratios = {name: statistics.median(found) / statistics.median(alone) for name, found in beside.items()}
    return {
        "seconds_alone": Figure(tuple(alone), "s"),
        **{f"seconds_{name}": Figure(tuple(found), "s") for name, found in beside.items()},
        **{f"ratio_{name}": Figure((ratio,), "1") for name, ratio in ratios.items()},
    }


def _turns(
    busy: ours.Fleet, joiners: dict[str, subprocess.Popen[bytes]], turns: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of rounds alone, and beside each kind of joiners."""
    alone: list[float] = []
    beside: dict[str, list[float]] = {name: [] for name in _JOINERS}
    for _ in range(turns):
        alone += _window(busy)
        for name, joiner in joiners.items():
            joiner.send_signal(signal.SIGCONT)
            beside[name].extend(_window(busy))
            joiner.send_signal(signal.SIGSTOP)
            assert joiner.poll() is None, "a joiner has ended"
            print(f"{name}: {statistics.median(beside[name]):.3f} s", file=sys.stderr, flush=True)
    return alone, beside


def _joiner(busy: ours.Fleet, name: str, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Stopped in the middle of its first download; killed when `stack` is left, with what it has downloaded."""
    cache = (_MEMORY if _MEMORY.is_dir() else busy.folder.root.parent) / f"dah-bench-{busy.coordinator_pid}-{name}"
    words = [str(busy.folder.root), busy.url, str(cache), str(_JOINERS[name])]
    stack.callback(shutil.rmtree, cache, ignore_errors=True)
    joiner = busy.start(["-m", "benchmarks.join.joiner", *words], ("nice", "-n", "19"))
    stack.callback(joiner.wait)
    stack.callback(joiner.kill)
    while not any(cache.glob("cache-*/*.part")):
        assert joiner.poll() is None, "a joiner has ended"
        time.sleep(0.05)
    joiner.send_signal(signal.SIGSTOP)
    return joiner


def _window(busy: ours.Fleet) -> list[float]:
    """Seconds of rounds that begin and end within."""
    first = busy.await_version(busy.newest_version + 1, poll_seconds=0.02)
    busy.await_version(first + _ROUNDS, poll_seconds=0.02)
    with closing(Ledger(busy.folder.ledger, read_only=True)) as ledger:
        at = [version.published_at_ms / 1000 for version in ledger.versions()[first : first + _ROUNDS + 1]]
    return [later - sooner for sooner, later in pairwise(at)]
