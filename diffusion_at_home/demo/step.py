"""One `dah` command, run to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from diffusion_at_home.errors import StopProcess


class StepFailed(StopProcess):
    """A command of the demo failed; carries its sentence and its exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.exit_code = code  # type: ignore[misc]  # of this instance: what the command itself would have returned


def dah(*arguments: str, hear: Callable[[str], None] = lambda _: None) -> None:
    """Run `dah` with `arguments`; `hear` is told its progress, a line at a time. Raises `StepFailed` with its last words."""
    command = [sys.executable, "-m", "diffusion_at_home", *arguments]
    last = "it said nothing"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own
        assert process.stderr is not None
        try:
            for line in map(str.strip, process.stderr):
                if line.startswith("- "):
                    hear(line.removeprefix("- "))
                last = line or last
        except BaseException:  # raised again; the command must not outlive us
            process.terminate()
            raise
    if process.returncode:
        raise StepFailed(f"`dah {' '.join(arguments[:2])}` failed: {last.removeprefix('dah: ')}", process.returncode)
