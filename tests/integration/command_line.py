"""`dah` as a person runs it: a process of its own, of which only its output and its exit code are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.tiny_run import REPOSITORY

TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Answer:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The object that --json prints on the last line."""
        assert self.code == 0, self.err
        result = json.loads(self.out.splitlines()[-1])
        assert isinstance(result, dict)
        return result

    def refuses(self, code: int) -> str:
        """The one sentence on standard error of a command that failed with `code`."""
        assert self.code == code, f"exit code {self.code}: {self.err}"
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("dah: ")
        return line.removeprefix("dah: ")


def dah(*arguments: str | Path, cwd: Path | None = None, disk_blocks: int | None = None) -> Answer:
    """Run `dah` to its end; with `disk_blocks` no file may grow beyond so many blocks, as on a full disk."""
    command = [sys.executable, "-m", "diffusion_at_home", *map(str, arguments)]
    if disk_blocks is not None:
        command = ["sh", "-c", f'ulimit -f {disk_blocks}; exec "$@"', "sh", *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=TIMEOUT_SECONDS,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return Answer(done.returncode, done.stdout, done.stderr)
