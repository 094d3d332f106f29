"""Processes of `dah` whose wall clock the test sets, as a wrong battery or a time server does; nothing else is changed."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")
_GRACE_SECONDS = 60.0


def compiled_clock(folder: Path) -> Path:
    """The library to preload. Skips the test where none can be made."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("setting a process's clock needs a C compiler on Linux")
    library = folder / "wall_clock.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    return library


class WallClock:
    """How far a clock is ahead of the right time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    def jump_to(self, ahead: timedelta) -> None:
        self._memory[:8] = struct.pack("=q", int(ahead.total_seconds()))

    @property
    def now(self) -> datetime:
        ahead: int = struct.unpack("=q", self._memory[:8])[0]
        return datetime.now(UTC) + timedelta(seconds=ahead)


class ClockedProcess:
    """One `dah` command that lives by `clock`."""

    def __init__(self, arguments: Sequence[str], out: Path, clock: WallClock, library: Path) -> None:
        self._out = out
        environment = {"LD_PRELOAD": str(library), "DAH_WALL_CLOCK": str(clock.path), "OMP_NUM_THREADS": "1"}
        with out.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "diffusion_at_home", *arguments],
                stdout=file,
                stderr=file,
                env=os.environ | environment,
            )

    @property
    def output(self) -> str:
        return self._out.read_text()

    def must_live(self) -> None:
        assert self._process.poll() is None, self.output

    def terminate(self) -> int:
        self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(_GRACE_SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
