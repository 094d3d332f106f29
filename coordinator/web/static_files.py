"""Style, script and chart library, which ship with the package: read once, served from memory under the digest of all of them.

So a browser keeps them for ever and never has old ones; and nothing that a request says becomes part of a path on the disk.
"""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_FOLDER: Final = Path(__file__).with_name("static")
_FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


@cache
def static_files() -> StaticFiles:
    """Those of the package."""
    return StaticFiles(_FOLDER)


class StaticFiles:
    """All files below `static/`."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self._files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        digest = hashlib.sha256()
        for name, data in self._files.items():
            digest.update(f"{name}\n{len(data)}\n".encode() + data)
        self._digest = digest.hexdigest()[:16]

    def url(self, name: str) -> str:
        """Where the file is served. Raises `KeyError` for none of them."""
        assert self._files[name] is not None
        return f"/static/{self._digest}/{name}"

    @property
    def route(self) -> Route:
        """For the application."""
        return Route("/static/{digest}/{name:path}", self._serve, methods=["GET"])

    async def _serve(self, request: Request) -> Response:
        name, data = request.path_params["name"], None
        if request.path_params["digest"] == self._digest:
            data = self._files.get(name)
        if data is None:
            return PlainTextResponse("no such file\n", status_code=404)
        kind, _ = mimetypes.guess_type(name)
        return Response(data, media_type=kind or "text/plain", headers=_FOR_EVER)
