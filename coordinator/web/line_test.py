"""The line test of `diffusion_at_home.linetest`: bytes that are thrown away, so many and no more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from diffusion_at_home.linetest import MAX_LINE_TEST_BYTES, MAX_LINE_TESTS

_PIECE: Final = os.urandom(1 << 16)
"""Sent again and again: longer than what the compressors of the web look back."""

_LONGEST: Final = timedelta(seconds=30)
"""A client that dawdles gives its place to the next one."""

_RETRY_AFTER: Final = "5"
_FRESH: Final = {"Cache-Control": "no-store"}


class LineTest:
    """Both ways of the line test as one ASGI application, which counts who is measuring."""

    def __init__(self, longest: timedelta = _LONGEST) -> None:
        self._longest = longest
        self._num_running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._num_running >= MAX_LINE_TESTS:
            await _refusal(503, "others are measuring their lines", {"Retry-After": _RETRY_AFTER})(scope, receive, send)
            return
        self._num_running += 1
        try:
            async with asyncio.timeout(self._longest.total_seconds()):
                response = await _answer(Request(scope, receive))
                await response(scope, receive, send)
        except TimeoutError:
            if scope["method"] == "POST":  # a download has begun: the server ends it, for its end is missing
                await _refusal(408, "too slow to be measured")(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self._num_running -= 1


async def _answer(request: Request) -> Response:
    return await _receive(request) if request.method == "POST" else _send(request)


def _send(request: Request) -> Response:
    wanted = _size(request.query_params.get("bytes", ""))
    if wanted is None:
        return _refusal(400, "bytes= names how many bytes to send")
    if wanted > MAX_LINE_TEST_BYTES:
        return _refusal(413, f"at most {MAX_LINE_TEST_BYTES} bytes")
    headers = {**_FRESH, "Content-Length": str(wanted)}
    return StreamingResponse(_pieces(wanted), media_type="application/octet-stream", headers=headers)


async def _receive(request: Request) -> Response:
    announced = _size(request.headers.get("Content-Length", "0"))
    received = 0
    if announced is not None and announced <= MAX_LINE_TEST_BYTES:
        async for piece in request.stream():
            received += len(piece)
            if received > MAX_LINE_TEST_BYTES:
                break
        else:
            return Response(status_code=204, headers=_FRESH)
    return _refusal(413, f"at most {MAX_LINE_TEST_BYTES} bytes")


async def _pieces(num_bytes: int) -> AsyncIterator[bytes]:
    for start in range(0, num_bytes, len(_PIECE)):
        yield _PIECE[: num_bytes - start]


def _size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Ends the connection too: what a refused client still sends is not read."""
    closing = {**_FRESH, "Connection": "close", **(headers or {})}
    return PlainTextResponse(f"{reason}\n", status_code=status, headers=closing)
