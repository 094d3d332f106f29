"""A checkpoint's grid in as many bytes as a phone should load; whoever wants all of it follows the link.

Made in a thread, once for all who ask, from files that the run itself has drawn; the latest are kept in memory.
"""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator.judging.work import GRID_NAME
from coordinator.web.downloads import Downloads
from coordinator.web.kept import Kept
from coordinator.web.sources import Sources
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import DahError

MOST_BYTES: Final = 120_000
_KEPT: Final = 32
_KEPT_SECONDS: Final = 3600.0
_TRIES: Final = ((1456, 80), (1456, 60), (1100, 60), (800, 50), (600, 30))
"""Widest (pixels), and WebP's quality; the last one is taken as it comes."""

_IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


@dataclass(frozen=True, slots=True)
class _Preview:
    data: bytes
    media_type: str


class Previews:
    """Of one run's checkpoints, as far as they are offered or were judged."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources
        self._kept = Kept(self._make, seconds=_KEPT_SECONDS, most=_KEPT, clock=clock)

    @property
    def route(self) -> Route:
        """For the application."""
        return Route("/pictures/{name}", Downloads(self._serve, self._sources.admission), methods=["GET"])

    async def _serve(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            found = await self._kept.get(name) if await self._path(name) else None
        except (DahError, OSError):  # its manifest or the picture itself is damaged, or has just gone
            found = None
        if found is None:
            return PlainTextResponse("no such picture\n", status_code=404)
        return Response(found.data, media_type=found.media_type, headers=_IMMUTABLE)

    async def _path(self, name: str) -> Path | None:
        sources = self._sources
        return await sources.checkpoints.file(name, GRID_NAME) or await sources.judgements.sheet(name, GRID_NAME)

    async def _make(self, name: str) -> _Preview | None:
        path = await self._path(name)
        return None if path is None else await asyncio.to_thread(_preview, path)


def preview_url(name: str) -> str:
    """Where the preview of checkpoint `name` is served."""
    return f"/pictures/{name}"


def _preview(path: Path) -> _Preview:
    """The file itself, if it is small. Raises `OSError`."""
    data = path.read_bytes()
    if len(data) <= MOST_BYTES:
        return _Preview(data, "image/png")
    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    for width, quality in _TRIES:
        shown = picture.copy()
        shown.thumbnail((width, 10 * width))
        buffer = io.BytesIO()
        shown.save(buffer, format="WEBP", quality=quality)
        data = buffer.getvalue()
        if len(data) <= MOST_BYTES:
            break
    return _Preview(data, "image/webp")
