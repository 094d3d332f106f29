"""Asks the worker that runs in a state folder, if one does."""

from __future__ import annotations

import time
from typing import Final

from pydantic import ValidationError

from diffusion_at_home.errors import ConfigError, NotRunning, Unreachable
from worker.control.messages import Reply, Request
from worker.control.socket_place import connected
from worker.state_folder import StateFolder

_PATIENCE_SECONDS: Final = 10.0
_START_SECONDS: Final = 3.0
"""From owning the folder to listening in it, at most."""

_MOST_BYTES: Final = 2**20


def ask(folder: StateFolder, request: Request) -> Reply:
    """The worker's reply. Raises `NotRunning` if none runs there, and `ConfigError` if the request is refused."""
    reply = _ask(folder, request)
    if reply.refused:
        raise ConfigError(f"the running worker refuses that: {reply.refused}")
    return reply


def _ask(folder: StateFolder, request: Request) -> Reply:
    line = request.model_dump_json().encode() + b"\n"
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with connected(folder.control, _PATIENCE_SECONDS) as connection:
                connection.sendall(line)
                with connection.makefile("rb") as received:
                    return Reply.model_validate_json(received.readline(_MOST_BYTES))
        except (OSError, ValidationError) as error:  # not there yet, or just gone
            why = error
        if not folder.in_use:
            raise NotRunning("no worker runs here: start one with dah worker run")
        if time.monotonic() > deadline:
            reason = "of another version" if isinstance(why, ValidationError) else str(why)
            raise Unreachable(f"a worker runs here but does not answer ({reason}): end it with Ctrl-C or kill")
        time.sleep(0.05)
