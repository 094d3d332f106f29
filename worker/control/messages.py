"""What passes over the local socket: one request a connection and its reply, each one JSON object on one line."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from diffusion_at_home.config.toml import Section
from worker.control.duration import LONGEST
from worker.control.wishes import Wish
from worker.progress import WorkerState

MOST_BYTES: Final = 4096
"""Of a request, its end of line included."""


class Verb(StrEnum):
    """What may be asked of a running worker."""

    STATUS = "status"
    """Nothing."""
    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"
    """End after the lease at hand."""
    STOP = "stop"
    RELOAD = "reload"
    """Read the settings again."""


class Request(Section):
    """From the command line to the worker."""

    verb: Verb
    seconds: Annotated[float, Field(gt=0, le=LONGEST.total_seconds())] | None = None
    """Of a pause: how long; None is until it is resumed."""
    at_once: bool = False
    """Of pause and stop: give the lease back instead of handing in what is trained."""


class Reply(Section):
    """From the worker: where it stands once the request was heard."""

    refused: str = ""
    """Why the request was not heard, one sentence; empty if it was."""
    wish: Wish = Wish.RUNNING
    paused_until: AwareDatetime | None = None
    state: WorkerState = WorkerState.STARTING
    reason: str = ""
    pid: int = 0
