"""Processes of a benchmark: `dah` commands, and others that end with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = ROOT / "configs" / "digits.toml"

_HERE: Final = {**os.environ, "PYTHONPATH": str(ROOT)}
"""Or a process would import whatever tree is installed, perhaps another than the one that is measured."""


def dah(*arguments: str) -> None:
    """Run a command to its end."""
    words = [sys.executable, "-m", "diffusion_at_home", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=_HERE)
    assert done.returncode == 0, done.stderr


def start(stack: ExitStack, arguments: Sequence[str], log: int, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start python with `arguments`, among the benchmarks; killed when `stack` is left. What it prints goes to `log`.

    `before` are the words of a command that runs it.
    """
    process = subprocess.Popen(
        [*before, sys.executable, *arguments], stdout=log, stderr=log, cwd=ROOT / "scripts", env=_HERE
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process
