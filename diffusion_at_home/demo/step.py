"""One `dah` command, run to its end."""

from __future__ import annotations

import subprocess
import sys

from diffusion_at_home.errors import StopProcess


class StepFailed(StopProcess):
    """A command of the demo failed; carries its sentence and its exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code  # type: ignore[misc]  # of this instance: what the command itself would have returned


def dah(*arguments: str) -> None:
    """Run `dah` with `arguments`. Raises `StepFailed` with its last words."""
    done = subprocess.run(  # noqa: S603 -- our own command
        [sys.executable, "-m", "diffusion_at_home", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise StepFailed(f"`dah {' '.join(arguments[:2])}` failed: {lines[-1].removeprefix('dah: ')}", done.returncode)
