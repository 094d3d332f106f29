"""The pages of `diffusion_at_home.audit.records`: leases of closed rounds, and ways to versions."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator.admission import Admission
from coordinator.public_leases import PAGE_SECONDS, PublicLeases
from coordinator.web.downloads import Downloads

_KEEP = {"Cache-Control": f"public, max-age={PAGE_SECONDS}"}


def lease_routes(leases: PublicLeases, admission: Admission) -> list[Route]:
    """The routes; whoever reads a page takes one of the places for downloads."""

    async def round_page(request: Request) -> Response:
        number, after = _number(request.path_params["number"]), _number(request.query_params.get("after", "0"))
        page = None if number is None or after is None else await leases.round_page(number, after)
        return _page(page, "no such closed round")

    async def lease_page(request: Request) -> Response:
        number = _number(request.path_params["number"])
        page = None if number is None else await leases.lease_page(number)
        return _page(page, "nothing was handed in for such a lease in a closed round")

    async def version_page(request: Request) -> Response:
        number = _number(request.path_params["number"])
        found = None if number is None else leases.version(number)
        return _page(None if found is None else found.model_dump_json(), "no such version")

    pages = {"rounds": round_page, "leases": lease_page, "versions": version_page}
    return [
        Route(f"/{name}/{{number}}.json", Downloads(page, admission), methods=["GET"]) for name, page in pages.items()
    ]


def _page(json: str | None, otherwise: str) -> Response:
    if json is None:
        return PlainTextResponse(f"{otherwise}\n", status_code=404)
    return Response(json, media_type="application/json", headers=_KEEP)


def _number(text: str) -> int | None:
    """What `text` says, if it can be a number of the ledger's."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
