"""The judging process: `dah checkpoint evaluate` in the last place of the machine. `python -m coordinator.judging.child TASK`.

It takes the time that nobody else wants, is the first to go when the machine has no memory left, and allocates no more than
it was allowed. It ends with the coordinator: that one holds the other end of its standard input, which closes however
the coordinator ends. Nothing it writes counts before the coordinator has named it, so it may be killed at any instant.

What failed is its last line, and its exit code that of the error.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from coordinator.judging.task import JudgingTask
from diffusion_at_home.errors import DahError, HardwareError

_LOWEST_PRIORITY: Final = 19
_FIRST_TO_GO: Final = "1000"
"""Of Linux's oom_score_adj."""
_OUT_OF_MEMORY: Final = ("memory", "bad_alloc")
"""In what torch says then."""
_NEARLY: Final = 0.9
_STDIN: Final = 0


def main() -> None:
    """Do the task that the command line names."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the coordinator, which kills us when it stops
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_coordinator, name="coordinator-watch", daemon=True).start()
    task = JudgingTask.model_validate_json(sys.argv[1])
    _take_the_last_place(task)
    try:
        _judge(task)
    except DahError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def _judge(task: JudgingTask) -> None:
    try:
        # Loads diffusers and transformers, which takes seconds: only from here on.
        from diffusion_at_home.evaluation.evaluate import EvaluationPlan, evaluate  # noqa: PLC0415

        found = evaluate(
            EvaluationPlan(
                checkpoint=task.checkpoint,
                data=task.data,
                out=task.out,
                encoder=task.encoder,
                pictures=task.pictures,
                real=task.real,
                candidates=task.candidates,
                steps=task.steps,
            )
        )
    except Exception as error:  # raised again, in words where memory ran out
        if not _is_out_of_memory(error, task.memory_bytes):
            raise
        raise HardwareError("it needs more memory than judging.memory_gib allows, or than there is") from None
    task.result.write_text(json.dumps(found.to_json()), encoding="utf-8")


def _is_out_of_memory(error: Exception, most_bytes: int) -> bool:
    """Torch raises a RuntimeError; at the limit, an import fails with whatever it comes to."""
    if isinstance(error, MemoryError) or any(word in str(error) for word in _OUT_OF_MEMORY):
        return True
    data_bytes: int = getattr(psutil.Process().memory_info(), "data", 0)  # what the limit counts; of Linux alone
    return most_bytes > 0 and data_bytes > _NEARLY * most_bytes


def _take_the_last_place(task: JudgingTask) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_PRIORITY)
    with suppress(OSError):  # not on every system
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")
    if task.memory_bytes:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        most = task.memory_bytes if hard == resource.RLIM_INFINITY else min(task.memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _end_with_the_coordinator() -> None:
    os.read(_STDIN, 1)  # nothing is ever sent: it returns at the end of the file
    os._exit(1)


if __name__ == "__main__":
    main()
