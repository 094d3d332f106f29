"""The run's address: what workers, operators and downloaders fetch over HTTP. All is public; nothing that is sent is kept.

Files are served only if the ledger or a manifest names them, with Range, so that any cache or mirror can do the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from coordinator.admission import Admission
from coordinator.blobs import BlobStore
from coordinator.checkpoints import Checkpoints
from coordinator.judging.published import Judgements
from coordinator.metrics import Metrics
from coordinator.public_leases import PublicLeases
from coordinator.web.downloads import Downloads
from coordinator.web.guard import Guard
from coordinator.web.lease_pages import lease_routes
from coordinator.web.line_test import LineTest
from coordinator.web.operator.desk import Desk
from coordinator.web.pages import plain
from coordinator.web.site import Site
from diffusion_at_home.checkpoint.manifest import SIGNATURE_NAME
from diffusion_at_home.linetest import LINE_TEST_PATH
from diffusion_at_home.runinfo import RUN_INFO_PATH, RunInfo
from diffusion_at_home.strangers import FROM_HERE

_IMMUTABLE = {"Cache-Control": "public, max-age=31536000, immutable"}
_CHANGES = {"Cache-Control": "no-cache"}


_NEVER_KEPT = {"Cache-Control": "no-store"}

LeadsTo = Callable[[str], Awaitable[str]]


async def _nowhere(sha256: str) -> str:  # noqa: ARG001
    return ""


class _File(FileResponse):
    """A file in pieces large enough that the hop to a thread for each is not what the loop does."""

    chunk_size = 1 << 18


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run has to show of its work."""

    checkpoints: Checkpoints
    judgements: Judgements
    leases: PublicLeases
    site: Site
    """The pages for people."""
    desk: Desk
    """The operator's."""


def web_app(
    *,
    info: RunInfo,
    status: Callable[[], Awaitable[dict[str, Any]]],
    blobs: BlobStore,
    shown: Shown,
    metrics: Metrics,
    admission: Admission,
    leads_to: LeadsTo = _nowhere,
) -> ASGIApp:
    """All that one run's address answers; `leads_to` is asked where else a file is before it is sent."""

    async def led_on(request: Request, sha256: str) -> Response | None:
        url = "" if not sha256 or FROM_HERE in request.url.query else await leads_to(sha256)
        return RedirectResponse(url, HTTPStatus.TEMPORARY_REDIRECT, headers=_NEVER_KEPT) if url else None

    async def run_info(request: Request) -> Response:  # noqa: ARG001
        return Response(info.model_dump_json(), media_type="application/json")

    async def status_json(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(plain(await status()))

    async def healthz(request: Request) -> Response:  # noqa: ARG001
        return PlainTextResponse("ok\n")

    async def prometheus(request: Request) -> Response:  # noqa: ARG001
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def blob(request: Request) -> Response:
        if led := await led_on(request, request.path_params["sha256"]):
            return led
        path = blobs.path(request.path_params["sha256"])
        if path is None:
            return PlainTextResponse("no such blob\n", status_code=404)
        return _File(path, media_type="application/octet-stream", headers=_IMMUTABLE)

    async def listing(request: Request) -> Response:  # noqa: ARG001
        return Response((await shown.checkpoints.listing()).model_dump_json(), media_type="application/json")

    async def signature(request: Request) -> Response:
        data = await shown.checkpoints.signature(request.path_params["name"])
        if data is None:
            return PlainTextResponse("no such signature of a published checkpoint\n", status_code=404)
        return Response(data, media_type="application/json", headers=_CHANGES)

    async def checkpoint_file(request: Request) -> Response:
        name, of = request.path_params["name"], request.path_params["path"]
        path = await shown.checkpoints.file(name, of)
        if path is None:
            return PlainTextResponse("no such file in a published checkpoint\n", status_code=404)
        if led := await led_on(request, shown.checkpoints.sha256(name, of)):
            return led
        return _File(path, headers=_IMMUTABLE)

    async def judged(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(await shown.judgements.listing())

    async def judgement_file(request: Request) -> Response:
        path = await shown.judgements.file(request.path_params["file"])
        return _File(path, headers=_CHANGES) if path else PlainTextResponse("no such file\n", status_code=404)

    async def sheet(request: Request) -> Response:
        path = await shown.judgements.sheet(request.path_params["name"], request.path_params["file"])
        return _File(path, headers=_IMMUTABLE) if path else PlainTextResponse("no such picture\n", status_code=404)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return shown.site.failed(request, error)

    def sent(kind: str) -> Callable[[int], object]:
        return metrics.sent.labels(kind=kind).inc

    checkpoint_files = Downloads(checkpoint_file, admission, on_bytes=sent("checkpoint"))
    app = Starlette(
        exception_handlers={HTTPException: failed},
        routes=[
            Route(RUN_INFO_PATH, run_info),
            Route("/status.json", status_json),
            Route("/healthz", healthz),
            Route("/metrics", prometheus),
            Route(LINE_TEST_PATH, LineTest(), methods=["GET", "POST"]),
            Route("/blobs/{sha256}", Downloads(blob, admission, on_bytes=sent("blob")), methods=["GET"]),
            *lease_routes(shown.leases, admission),
            Route("/checkpoints.json", listing),
            Route(f"/checkpoints/{{name}}/{SIGNATURE_NAME}", signature),
            Route("/checkpoints/{name}/{path:path}", checkpoint_files, methods=["GET"]),
            Route("/judgements.json", judged),
            Route("/judgements/{file}", Downloads(judgement_file, admission), methods=["GET"]),
            Route("/judgements/{name}/{file}", Downloads(sheet, admission), methods=["GET"]),
            *shown.site.routes(),
            *shown.desk.routes(),
        ],
    )
    return Guard(app)
