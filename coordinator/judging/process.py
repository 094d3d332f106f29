"""Starts the judging process and waits for its end; whoever is cancelled while waiting has killed it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import BinaryIO, Final

from coordinator.judging.task import JudgingTask
from diffusion_at_home.errors import StorageError

_CHILD: Final = "coordinator.judging.child"
_MOST_SAID_BYTES: Final = 64 * 2**10


class JudgingFailed(Exception):
    """A checkpoint could not be judged; the message is a reason for people, not a whole sentence."""


async def judge_in_process(task: JudgingTask, said: Path) -> None:
    """Do `task` in a process of its own, which writes what it says to `said`.

    Raises `JudgingFailed`, and `StorageError` if the disk did not take what it wrote.
    """
    with _opened(said) as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing from wherever we were started
            "-m",
            _CHILD,
            task.model_dump_json(),
            stdin=PIPE,  # which it waits for the end of
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is meant for us
            env=_environment(task.threads),
        )
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code == StorageError.exit_code:
        raise StorageError(_last_line(said))
    if code < 0:
        raise JudgingFailed(f"its process was killed by {signal.Signals(-code).name}")
    if code > 0:
        raise JudgingFailed(_last_line(said))


def _environment(threads: int) -> dict[str, str]:
    """Ours, but few threads, and the code that we run ourselves."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def _last_line(said: Path) -> str:
    lines = said.read_bytes()[-_MOST_SAID_BYTES:].decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _opened(said: Path) -> BinaryIO:
    return said.open("wb")
