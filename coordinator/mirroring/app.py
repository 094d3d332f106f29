"""What a mirror answers: blobs of its run by their sha256, with ranges, and how it does. It passes on nothing else.

A name that is no sha256 is refused unasked, and one that the run does not have is asked for once in a while.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.admission import Admission
from coordinator.blobs import is_sha256
from coordinator.mirroring.cache import MirrorCache
from coordinator.mirroring.fetch import PIECE_BYTES, Fetch
from coordinator.mirroring.upstream import NoSuchBlob, RunBusy, Upstream
from coordinator.web.downloads import Downloads
from coordinator.web.guard import Guard
from diffusion_at_home.errors import StorageError, Unreachable

_IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable", "Accept-Ranges": "bytes"}
_RANGE: Final = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")
_MOST_WAITING: Final = 64
"""Blobs that wait for a place to be fetched; who wants yet another one is told to come back."""

_UNKNOWN_SECONDS: Final = 30.0
_MOST_UNKNOWN: Final = 4096


@dataclass(slots=True)
class Tally:
    """Since the start."""

    hits: int = 0
    """Answered with what was here, or was coming."""
    fetched: int = 0
    """Blobs that were asked of the run."""
    fetched_bytes: int = 0
    sent_bytes: int = 0


class Mirror:
    """Of one run; on one loop."""

    def __init__(
        self, *, run_id: str, upstream: Upstream, cache: MirrorCache, admission: Admission, fetches: int
    ) -> None:
        """At most `fetches` blobs are fetched at once."""
        self._run_id = run_id
        self._upstream = upstream
        self._cache = cache
        self._admission = admission
        self._places = asyncio.Semaphore(fetches)
        self._fetches: dict[str, Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unknown: dict[str, float] = {}
        self.tally = Tally()

    def app(self) -> ASGIApp:
        """All that it answers."""
        blobs = Downloads(self._blob, self._admission, on_bytes=self._sent)
        routes = [
            Route("/blobs/{sha256}", blobs, methods=["GET"]),
            Route("/mirror.json", self._facts, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
        ]
        return Guard(Starlette(routes=routes))

    async def close(self) -> None:
        """Break off what is being fetched."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._upstream.close()

    async def _healthz(self, request: Request) -> Response:  # noqa: ARG002
        return PlainTextResponse("ok\n")

    async def _facts(self, request: Request) -> Response:  # noqa: ARG002
        tally = self.tally
        return JSONResponse(
            {
                "run_id": self._run_id,
                "blobs": self._cache.num_blobs,
                "bytes": self._cache.size_bytes,
                "hits": tally.hits,
                "fetched": tally.fetched,
                "fetched_bytes": tally.fetched_bytes,
                "sent_bytes": tally.sent_bytes,
            }
        )

    async def _blob(self, request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        if not is_sha256(sha256) or self._is_unknown(sha256):
            return PlainTextResponse("no such blob\n", status_code=404)
        return await self._kept(request, sha256) or await self._coming(request, sha256)

    async def _kept(self, request: Request, sha256: str) -> Response | None:
        """The blob as it is here."""
        path = await self._cache.path(sha256)
        if path is None:
            return None
        try:
            file = path.open("rb")
        except OSError:
            return None  # it has just gone
        self.tally.hits += 1
        return _Sends(request, file, os.fstat(file.fileno()).st_size, None)

    async def _coming(self, request: Request, sha256: str) -> Response:
        """The blob as it comes from the run."""
        fetch = self._fetches.get(sha256)
        if fetch is not None:
            self.tally.hits += 1
        elif len(self._fetches) >= _MOST_WAITING:
            return _come_back("many blobs are being fetched", "5")
        else:
            fetch = self._begin(sha256)
        try:
            size = await asyncio.shield(fetch.size)
            return _Sends(request, fetch.part.open("rb"), size, fetch)
        except NoSuchBlob:
            self._note_unknown(sha256)
            return PlainTextResponse("no such blob\n", status_code=404)
        except RunBusy as busy:
            return _come_back("the run is busy", busy.retry_after)
        except (Unreachable, StorageError) as error:
            return _come_back(str(error), "30")
        except FileNotFoundError:  # it has just come, or just failed
            return await self._kept(request, sha256) or _come_back("try again", "1")

    def _begin(self, sha256: str) -> Fetch:
        fetch = self._fetches[sha256] = Fetch(sha256, self._upstream, self._cache)
        task = asyncio.create_task(self._fetch(sha256, fetch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fetch

    async def _fetch(self, sha256: str, fetch: Fetch) -> None:
        try:
            async with self._places:
                await fetch.run()
        finally:
            if not fetch.size.done():
                fetch.size.cancel()
            del self._fetches[sha256]
            self.tally.fetched += 1
            self.tally.fetched_bytes += fetch.received_bytes

    def _sent(self, num_bytes: int) -> None:
        self.tally.sent_bytes += num_bytes

    def _is_unknown(self, sha256: str) -> bool:
        return time.monotonic() < self._unknown.get(sha256, 0.0)

    def _note_unknown(self, sha256: str) -> None:
        if len(self._unknown) >= _MOST_UNKNOWN:
            self._unknown.clear()
        self._unknown[sha256] = time.monotonic() + _UNKNOWN_SECONDS


class _Sends(Response):
    """A file's bytes, from where they are wanted: of a whole one, or of one that is still coming.

    If they come no more the answer ends early, which every client notices: its length was announced.
    """

    def __init__(self, request: Request, file: BinaryIO, size_bytes: int, fetch: Fetch | None) -> None:
        self._file = file
        self._fetch = fetch
        self._start, self._end, status, ranges = _wanted(request.headers.get("Range"), size_bytes)
        length = {"Content-Length": str(self._end - self._start)}
        super().__init__(None, status, _IMMUTABLE | ranges | length, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send them."""
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with suppress(Unreachable):
                async for data in self._pieces():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b""})

    def _pieces(self) -> AsyncIterator[bytes]:
        if self._fetch is not None:
            return self._fetch.pieces(self._file, self._start, self._end)
        return _of_file(self._file, self._start, self._end)


async def _of_file(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    file.seek(start)
    while start < end:
        data = await asyncio.to_thread(file.read, min(end - start, PIECE_BYTES))
        if not data:
            raise Unreachable("the file is shorter than it was")
        start += len(data)
        yield data


def _wanted(text: str | None, size_bytes: int) -> tuple[int, int, int, dict[str, str]]:
    """First byte, end, status and headers; what is no single range is no range, as HTTP has it."""
    found = _RANGE.fullmatch(text.strip()) if text else None
    if found is None:
        return 0, size_bytes, 200, {}
    start, end = int(found[1]), min(int(found[2]) + 1, size_bytes) if found[2] else size_bytes
    if start >= end:
        return 0, 0, 416, {"Content-Range": f"bytes */{size_bytes}"}
    return start, end, 206, {"Content-Range": f"bytes {start}-{end - 1}/{size_bytes}"}


def _come_back(why: str, seconds: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=503, headers={"Retry-After": seconds})
