"""Files on their way out: so many at once, and nobody holds a place by taking nothing."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from coordinator.admission import Admission
from coordinator.web.downloads import Downloads
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.config.run import ServerSection

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def answered(downloads: Downloads, host: str = "127.0.0.1") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await downloads({**SCOPE, "client": (host, 1)}, receive, send)
    return sent


async def endpoint(request: Request) -> Response:  # noqa: ARG001
    return Response(b"data")


def doors(**section: Any) -> Admission:
    return Admission.of(ServerSection(**section), SystemClock(), random.Random(0), lambda: 0.0)


def test_who_finds_no_place_is_told_when_to_come_back() -> None:
    admission = doors(max_downloads=1)
    downloads = Downloads(endpoint, admission)

    async def crowd() -> None:
        with admission.downloads.taken("full"):
            start = (await answered(downloads))[0]
        assert start["status"] == 503
        assert int(dict(start["headers"])[b"retry-after"]) >= 1
        assert (await answered(downloads))[0]["status"] == 200

    asyncio.run(crowd())


@pytest.mark.parametrize(("limit", "at_once"), [(2, 2), (0, 3)], ids=["on", "off"])
def test_one_address_has_a_few_places_and_others_theirs(limit: int, at_once: int) -> None:
    entered, leave = asyncio.Semaphore(0), asyncio.Event()

    async def slow(request: Request) -> Response:  # noqa: ARG001
        entered.release()
        await leave.wait()
        return Response(b"data")

    async def crowd() -> None:
        downloads = Downloads(slow, doors(max_downloads=100, max_downloads_per_address=limit))
        asking = [asyncio.create_task(answered(downloads, "192.0.2.1")) for _ in range(3)]
        asking += [asyncio.create_task(answered(downloads, host)) for host in ("192.0.2.2", "127.0.0.1")]
        for _ in range(at_once + 2):
            await entered.acquire()
        leave.set()
        statuses = [(await one)[0]["status"] for one in asking]
        assert statuses == [200] * at_once + [503] * (3 - at_once) + [200, 200]

    asyncio.run(crowd())


def test_who_takes_nothing_loses_its_place() -> None:
    admission = doors(max_downloads=1)
    downloads = Downloads(endpoint, admission, timedelta(seconds=0.05))

    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def dawdle() -> None:
        await downloads(SCOPE, receive, stuck)
        assert admission.downloads.num_taken == 0
        assert (await answered(downloads))[0]["status"] == 200

    asyncio.run(dawdle())
