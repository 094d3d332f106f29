"""The local socket of a running worker: a Unix socket that its owner alone can reach, by file modes and by the system's word.

Nothing that a browser can be made to do reaches it. Whatever comes in costs one connection: a request is at most
`MOST_BYTES`, a connection has `_PATIENCE_SECONDS` in all, there are `_MOST_CONNECTIONS`, and what makes no sense gets one
sentence.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from diffusion_at_home import events
from diffusion_at_home.config.toml import first_mistake
from diffusion_at_home.errors import DahError
from worker.control.messages import MOST_BYTES, Reply, Request
from worker.control.socket_place import listening, remove

_PATIENCE_SECONDS: Final = 5.0
_MOST_CONNECTIONS: Final = 32
_CREDENTIALS: Final = struct.Struct("3i")
"""Of a peer on Linux: process, user, group."""

_log = events.logger("worker")


class ControlServer:
    """Listens from the start; `run` belongs on a thread of its own."""

    def __init__(
        self, folder: Path, answer: Callable[[Request], Reply], patience_seconds: float = _PATIENCE_SECONDS
    ) -> None:
        """`answer` is called on that thread, and may raise `DahError`. Raises `StorageError`."""
        self._folder = folder
        self._answer = answer
        self._patience_seconds = patience_seconds
        self._socket = listening(folder)
        self._num_connections = 0

    def run(self, ended: threading.Event) -> None:
        """Serve until `ended` is set."""
        try:
            asyncio.run(self._serve(ended))
        finally:
            self._socket.close()
            remove(self._folder)

    async def _serve(self, ended: threading.Event) -> None:
        server = await asyncio.start_unix_server(self._meet, sock=self._socket, limit=MOST_BYTES)
        async with server:
            await asyncio.to_thread(ended.wait)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._num_connections += 1
        try:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(self._patience_seconds):
                    reply = await self._hear(reader, writer)
                    writer.write(reply.model_dump_json().encode() + b"\n")
                    await writer.drain()
        finally:
            self._num_connections -= 1
            writer.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply:
        if self._num_connections > _MOST_CONNECTIONS:
            return Reply(refused="too many ask at once: ask again")
        if not _is_owner(writer.get_extra_info("socket")):
            return Reply(refused="this worker listens to the user who runs it, and to nobody else")
        try:
            request = Request.model_validate_json(await reader.readuntil(b"\n"))
            reply = self._answer(request)
        except asyncio.IncompleteReadError:
            return Reply(refused="the request ends before its line does")
        except asyncio.LimitOverrunError:
            return Reply(refused=f"the request is longer than {MOST_BYTES} bytes")
        except ValidationError as error:
            return Reply(refused=f"this is no request: {first_mistake(error)}")
        except DahError as error:
            return Reply(refused=str(error))
        _log.info("asked", verb=request.verb.value, seconds=request.seconds, at_once=request.at_once)
        return reply


def _is_owner(peer: socket.socket) -> bool:
    """Whether the other process is the same user's, where the system tells; elsewhere the socket's mode must do."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, user, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return bool(user == os.geteuid())
