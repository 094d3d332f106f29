"""The run's pages for people, put together: templates, static files, views, and what moves."""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coordinator.web.live_events import LiveEvents
from coordinator.web.pages import API, Pages, plain
from coordinator.web.previews import Previews
from coordinator.web.rendering import Renderer
from coordinator.web.sources import Sources
from coordinator.web.static_files import static_files
from coordinator.web.views.live import live_view
from coordinator.web.views.progress import read_progress
from diffusion_at_home import __version__
from diffusion_at_home.clock import Clock


class Site:
    """Of one run."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        run = sources.spec.config.run
        doors = sources.admission
        self._sources = sources
        self._clock = clock
        self.renderer = Renderer(run=run.name, title=run.title, version=__version__)
        """For whatever else has pages."""
        self._pages = Pages(sources, self.renderer, clock)
        self._events = LiveEvents(self._live, addresses=doors.addresses, places_of=doors.listeners_of)

    def stop(self) -> None:
        """Let go of who listens: the server is about to stop."""
        self._events.close()

    def close(self) -> None:
        """Nobody asks any more."""
        self._sources.ledger.close()

    def routes(self) -> list[BaseRoute]:
        """For the application."""
        return [
            *self._pages.routes(),
            Route(f"{API}/events", self._events, methods=["GET"]),
            Previews(self._sources, self._clock).route,
            static_files().route,
        ]

    def failed(self, request: Request, error: HTTPException) -> Response:
        """The answer to a request that no page answers: a page of words, or JSON for programs."""
        if request.url.path.startswith(f"{API}/"):
            sentence = HTTPStatus(error.status_code).phrase
            return JSONResponse({"error": sentence}, status_code=error.status_code, headers=error.headers)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return self._pages.not_found(request)
        return Response(f"{error.detail}\n", error.status_code, headers=error.headers, media_type="text/plain")

    async def _live(self) -> str:
        return json.dumps(plain(live_view(await read_progress(self._sources))))
