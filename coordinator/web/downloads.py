"""Files on their way out: so many at once, and none slower than a dead line. Who is turned away is told when to come back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from coordinator.admission import Admission
from coordinator.refused import Refused

_SLOWEST_BYTES_PER_SECOND: Final = 10_000
_LONGEST_SILENCE: Final = timedelta(minutes=1)
"""Lead on that pace: a line may pause, and a place is never held for longer by one that takes nothing."""


_AROUND_A_HEADER: Final = 4
"""Its colon, blank and end of line."""


class Downloads:
    """An endpoint that sends files, as an ASGI application which counts who is being sent one."""

    def __init__(
        self,
        endpoint: Callable[[Request], Awaitable[Response]],
        admission: Admission,
        longest_silence: timedelta = _LONGEST_SILENCE,
        on_bytes: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`on_bytes` is told what was sent."""
        self._on_bytes = on_bytes
        self._endpoint = endpoint
        self._admission = admission
        self._longest_silence = longest_silence.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            address = self._admission.addresses.caller((scope.get("client") or ("", 0))[0])
            with (
                self._admission.downloads_of.taken(address, "many files are being sent to this address"),
                self._admission.downloads.taken("many are downloading at once"),
            ):
                response = await self._endpoint(Request(scope, receive))
                await self._send(response, scope, receive, send)
        except Refused as refused:
            wait = (refused.retry_after or _LONGEST_SILENCE).total_seconds()
            headers = {"Retry-After": str(math.ceil(wait))}  # the header knows whole seconds
            await PlainTextResponse(f"{refused}\n", status_code=503, headers=headers)(scope, receive, send)

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = asyncio.get_running_loop().time() + self._longest_silence

        async def in_time(message: Message) -> None:
            nonlocal deadline
            async with asyncio.timeout_at(deadline):
                await send(message)
            num_bytes = len(message.get("body", b""))
            headers = message.get("headers", ())
            self._on_bytes(num_bytes + sum(len(name) + len(value) + _AROUND_A_HEADER for name, value in headers))
            deadline += num_bytes / _SLOWEST_BYTES_PER_SECOND

        try:
            await response(scope, receive, in_time)
        except TimeoutError:
            return  # the server ends the connection, for the end is missing; a download goes on from where it is
