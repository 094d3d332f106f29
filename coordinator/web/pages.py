"""The run's pages, each with its JSON: one view is read for both, kept for a moment, and shown to all who ask meanwhile.

Only names that a page knows are taken from a query; whatever else it holds is passed over, so that it makes no page anew. Who
reads one takes one of the places for downloads, and loses it by taking nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from coordinator.page_queries import Credit
from coordinator.web.downloads import Downloads
from coordinator.web.kept import Kept
from coordinator.web.rendering import Renderer
from coordinator.web.sources import Sources
from coordinator.web.views.contributors import contributors, read_credits
from coordinator.web.views.curve import Curve, read_curve
from coordinator.web.views.downloads import read_checkpoint, read_downloads
from coordinator.web.views.join import join_view
from coordinator.web.views.log import read_log
from coordinator.web.views.machines import read_machines
from coordinator.web.views.run import read_run
from coordinator.web.views.status import status_view
from coordinator.web.views.team import read_team
from coordinator.web.views.volunteer import read_volunteer
from coordinator.web.views.worker import read_worker
from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import DahError

API: Final = "/api/v1"
_KEPT_PAGES: Final = 64
_FRESH: Final = {"Cache-Control": "no-cache"}
_LONGEST: Final = 200
"""Characters of anything that is asked for: longer ones are of nobody."""

_log = events.logger("coordinator")


@dataclass(frozen=True, slots=True)
class Page:
    """One page and its JSON."""

    path: str
    """Of the page; empty where there is only JSON."""
    api: str
    """Of its JSON, below `API`."""
    template: str
    view: Callable[[Asked], Awaitable[Any | None]]
    """What it says; None if there is no such thing."""
    seconds: float
    """For which an answer is kept."""
    names: tuple[str, ...] = ()
    """Of the path and the query, that it takes."""


Asked = dict[str, str]
"""Values by name; one that was not given is empty."""

_Key = tuple[str, ...]


class Pages:
    """All of one run's."""

    def __init__(self, sources: Sources, renderer: Renderer, clock: Clock) -> None:
        self._renderer = renderer
        self._clock = clock
        self._sources = sources
        self._curve = Kept[str, Curve](lambda _: read_curve(sources.ledger), seconds=5, most=1, clock=clock)
        self._credits = Kept[str, list[Credit]](lambda _: read_credits(sources), seconds=20, most=1, clock=clock)

    def routes(self) -> list[Route]:
        """For the application."""
        return [route for page in self._pages() for route in self._routes(page)]

    def not_found(self, request: Request) -> Response:
        """The answer where there is nothing: in words, or as JSON."""
        if request.url.path.startswith(f"{API}/"):
            return JSONResponse({"error": "there is nothing of this name"}, status_code=404)
        return self._renderer.page("templates/not_found.html", status=404, here="")

    # -- inside -------------------------------------------------------------------------------------------------

    def _unreadable(self, request: Request, error: DahError) -> Response:
        _log.error("page_failed", path=request.url.path, error=str(error))
        if request.url.path.startswith(f"{API}/"):
            return JSONResponse({"error": "this cannot be read now"}, status_code=503)
        return self._renderer.page("templates/unreadable.html", status=503, here="")

    def _pages(self) -> Sequence[Page]:
        sources = self._sources

        async def run(asked: Asked) -> Any:  # noqa: ARG001
            return await read_run(sources, await self._curve.get(""))

        async def curve(asked: Asked) -> Any:  # noqa: ARG001
            return await self._curve.get("")

        async def machines(asked: Asked) -> Any:
            return await read_machines(sources, asked["page"])

        async def contributors_of(asked: Asked) -> Any:
            credited = await self._credits.get("")
            return await asyncio.to_thread(
                contributors, credited, asked["period"], asked["by"], asked["find"], asked["page"]
            )

        async def worker(asked: Asked) -> Any:
            return await read_worker(sources, asked["id"])

        async def volunteer(asked: Asked) -> Any:
            return await read_volunteer(sources, await self._credits.get(""), asked["name"] or asked["called"])

        async def team(asked: Asked) -> Any:
            return await read_team(sources, await self._credits.get(""), asked["name"] or asked["called"])

        async def downloads(asked: Asked) -> Any:
            return await read_downloads(sources, asked["page"])

        async def checkpoint(asked: Asked) -> Any:
            return await read_checkpoint(sources, asked["name"])

        async def status(asked: Asked) -> Any:  # noqa: ARG001
            return status_view(sources)

        async def log(asked: Asked) -> Any:
            return await read_log(sources, asked["page"])

        async def join(asked: Asked) -> Any:  # noqa: ARG001
            return join_view(sources)

        return (
            Page("/", "/run", "run", run, seconds=2),
            Page("", "/curve", "", curve, seconds=5),
            Page("/machines", "/machines", "machines", machines, 2, ("page",)),
            Page(
                "/contributors", "/contributors", "contributors", contributors_of, 5, ("period", "by", "find", "page")
            ),
            Page("/workers/{id}", "/workers/{id}", "worker", worker, 5, ("id",)),
            Page("/volunteers/{name:path}", "/volunteers/{name:path}", "volunteer", volunteer, 5, ("name", "called")),
            Page("/teams/{name:path}", "/teams/{name:path}", "team", team, 5, ("name", "called")),
            Page("/downloads", "/downloads", "downloads", downloads, 5, ("page",)),
            Page("/downloads/{name}", "/downloads/{name}", "checkpoint", checkpoint, 5, ("name",)),
            Page("/status", "/status", "status", status, 2),
            Page("/log", "/log", "log", log, 5, ("page",)),
            Page("/join", "/join", "join", join, 60),
        )

    def _routes(self, page: Page) -> list[Route]:
        async def make_html(key: _Key) -> bytes | None:
            view = await page.view(dict(zip(page.names, key, strict=True)))
            if view is None:
                return None
            return self._renderer.text(f"templates/{page.template}.html", view=view, here=page.path).encode()

        async def make_json(key: _Key) -> bytes | None:
            view = await page.view(dict(zip(page.names, key, strict=True)))
            return None if view is None else json.dumps(plain(view), ensure_ascii=False).encode()

        def route(path: str, make: Callable[[_Key], Awaitable[bytes | None]], media_type: str) -> Route:
            kept = Kept(make, seconds=page.seconds, most=_KEPT_PAGES, clock=self._clock)

            async def endpoint(request: Request) -> Response:
                asked = {**request.query_params, **request.path_params}
                key = tuple(asked.get(name, "") for name in page.names)
                try:
                    found = None if any(len(value) > _LONGEST for value in key) else await kept.get(key)
                except DahError as error:  # the disk, or the ledger, which the problems name
                    return self._unreadable(request, error)
                if found is None:
                    return self.not_found(request)
                return Response(found, media_type=media_type, headers=_FRESH)

            return Route(path, Downloads(endpoint, self._sources.admission), methods=["GET"])

        routes = [route(f"{API}{page.api}", make_json, "application/json")]
        return [*routes, route(page.path, make_html, HTMLResponse.media_type or "text/html")] if page.path else routes


def plain(value: Any) -> Any:
    """`value` as JSON has it: records by their fields, and None for a number that is none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
