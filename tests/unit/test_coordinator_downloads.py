"""Files on their way out: so many at once, and nobody holds a place by taking nothing."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Scope

from coordinator.admission import Places
from coordinator.web.downloads import Downloads
from diffusion_at_home.clock import SystemClock

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def answered(downloads: Downloads) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await downloads(SCOPE, receive, send)
    return sent


async def endpoint(request: Request) -> Response:  # noqa: ARG001
    return Response(b"data")


@pytest.fixture
def places() -> Places:
    return Places(1, SystemClock(), random.Random(0))


def test_who_finds_no_place_is_told_when_to_come_back(places: Places) -> None:
    downloads = Downloads(endpoint, places)

    async def crowd() -> None:
        with places.taken("full"):
            start = (await answered(downloads))[0]
        assert start["status"] == 503
        assert int(dict(start["headers"])[b"retry-after"]) >= 1
        assert (await answered(downloads))[0]["status"] == 200

    asyncio.run(crowd())


def test_who_takes_nothing_loses_its_place(places: Places) -> None:
    downloads = Downloads(endpoint, places, timedelta(seconds=0.05))

    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def dawdle() -> None:
        await downloads(SCOPE, receive, stuck)
        assert places.num_taken == 0
        assert (await answered(downloads))[0]["status"] == 200

    asyncio.run(dawdle())
