"""What moves, to all who have a page open: server-sent events, made once for all of them, and only while anybody listens.

Nothing is queued: a listener that is slow misses what is overtaken, and one that takes nothing loses its place. How many there
may be, in all and from one address, is bounded; who is turned away has the page as it was, and asks again later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from coordinator.bell import Bell
from coordinator.callers import Addresses, PlacesPerCaller
from coordinator.refused import Refused
from diffusion_at_home.errors import StorageError

_BACK_AFTER_MS: Final = 5000
"""When a browser whose events have ended asks for them again."""

_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of listening."""

    listeners: int = 512
    """At once: a connection and some kB each."""
    every_seconds: float = 2.0
    """Between two looks whether anything has changed."""
    beat_seconds: float = 15.0
    """After which a silent stream says that it is there, so that no proxy ends it."""
    send_seconds: float = 20.0
    """Longest that a listener may take nothing."""
    longest_seconds: float = 3600.0
    """Then its stream ends, and it asks anew."""


class LiveEvents:
    """One run's, as an ASGI application: an endpoint."""

    def __init__(
        self,
        read: Callable[[], Awaitable[str]],
        *,
        addresses: Addresses,
        places_of: PlacesPerCaller,
        limits: Limits | None = None,
    ) -> None:
        """`read` is what to tell now, one line; `places_of` counts the listeners of each address."""
        self._read = read
        self._addresses = addresses
        self._places_of = places_of
        self._limits = limits or Limits()
        self._changed = Bell()
        self._latest: str | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closed = False
        self.num_listeners = 0
        """Now."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell one listener, until it leaves."""
        address = self._addresses.caller((scope.get("client") or ("", 0))[0])
        try:
            with self._places_of.taken(address, "many pages of this address are listening"):
                await self._listen(scope, receive, send)
        except Refused as refused:
            await _turned_away(str(refused))(scope, receive, send)

    def close(self) -> None:
        """End all streams: the run is no longer served."""
        self._closed = True
        self._changed.ring()

    # -- inside -------------------------------------------------------------------------------------------------

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._closed or self.num_listeners >= self._limits.listeners:
            await _turned_away("many pages are listening")(scope, receive, send)
            return

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(self._limits.send_seconds):
                await send(message)

        self.num_listeners += 1
        try:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._keep_reading())
            response = StreamingResponse(self._stream(), media_type="text/event-stream", headers=_HEADERS)
            with suppress(TimeoutError):  # the server ends the connection, for the end is missing
                await response(scope, receive, in_time)
        finally:
            self.num_listeners -= 1

    async def _stream(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        over, told = loop.time() + self._limits.longest_seconds, None
        yield f"retry: {_BACK_AFTER_MS}\n\n"
        while not self._closed and loop.time() < over:
            if self._latest != told and self._latest is not None:
                told = self._latest
                yield f"event: live\ndata: {told}\n\n"
            await self._changed.wait(self._limits.beat_seconds)
            if self._latest == told:
                yield ": still here\n\n"

    async def _keep_reading(self) -> None:
        """While there is anybody to tell."""
        while self.num_listeners and not self._closed:
            with suppress(StorageError):  # which the problems name
                latest = await self._read()
                if latest != self._latest:
                    self._latest = latest
                    self._changed.ring()
            await asyncio.sleep(self._limits.every_seconds)
        self._latest = None


def _turned_away(why: str) -> PlainTextResponse:
    return PlainTextResponse(f"{why}\n", status_code=503, headers={"Retry-After": "60", "Cache-Control": "no-store"})
