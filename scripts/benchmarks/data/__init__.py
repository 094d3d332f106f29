"""Data: how fast, and in how much memory, a data set of any size is built.

Generated pictures in tars become shards of 256 px: pictures a second of the whole command, against the libraries alone (decode,
resize, encode on all cores, before and after); resident memory of all its processes together, looked at every 50 ms; and whether
a build that is killed at half and run again makes the same bytes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from benchmarks.data.pictures import bare_pictures_per_second, make_tars
from benchmarks.figures import Figure
from benchmarks.processes import start
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.build_settings import BuildSettings

_POLL_SECONDS: Final = 0.05


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    settings = load_toml(None, BuildSettings, overrides)
    with tempfile.TemporaryDirectory(prefix="dah-data-") as folder:
        root = Path(folder)
        count = 2_000 if quick else 100_000
        _say(f"generating {count:,} pictures")
        tars = make_tars(root / "tars", count)
        bare = [bare_pictures_per_second(tars, settings)]
        _say(f"the libraries alone: {bare[0]:.0f} pictures/s; building")
        seconds, peak_bytes = _measured_build(root / "tars", root / "whole", overrides)
        bare.append(bare_pictures_per_second(tars, settings))
        built = count / seconds
        _say(f"built: {built:.0f} pictures/s in {peak_bytes / 2**20:.0f} MiB; building again, killed at half")
        _build_killed_at_half(root / "tars", root / "killed", overrides, num_units=len(tars))
        is_same = _digests(root / "whole") == _digests(root / "killed")
    return {
        "pictures_per_second": Figure((built,), "pictures/s"),
        "pictures_per_second_bare": Figure(tuple(bare), "pictures/s"),
        "share_of_bare": Figure(tuple(built / one for one in bare), "1"),
        "peak_memory": Figure((peak_bytes / 2**20,), "MiB"),
        "identical_when_killed": Figure((float(is_same),), "1"),
    }


def _measured_build(source: Path, out: Path, overrides: Sequence[str]) -> tuple[float, int]:
    """Seconds of the whole command, and the most bytes that its processes had resident at once."""
    begun, peak_bytes = time.monotonic(), 0
    with ExitStack() as stack:
        process = _started(stack, source, out, overrides)
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _resident_bytes(process.pid))
            time.sleep(_POLL_SECONDS)
    assert process.returncode == 0, "the build failed"
    return time.monotonic() - begun, peak_bytes


def _build_killed_at_half(source: Path, out: Path, overrides: Sequence[str], *, num_units: int) -> None:
    with ExitStack() as stack:
        process = _started(stack, source, out, overrides)
        while sum(1 for _ in (out / "parts").glob("*.json")) < num_units // 2:
            assert process.poll() is None, "the build ended before half of it was done"
            time.sleep(_POLL_SECONDS)
        process.kill()
    assert not (out / "manifest.json").exists()
    with ExitStack() as stack:
        assert _started(stack, source, out, overrides).wait() == 0


def _started(stack: ExitStack, source: Path, out: Path, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    sets = [word for override in overrides for word in ("--set", override)]
    words = ["-m", "diffusion_at_home", "data", "build", str(source), str(out), *sets]
    return start(stack, words, sys.stderr.fileno())


def _resident_bytes(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
