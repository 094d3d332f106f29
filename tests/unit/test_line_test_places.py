"""Who measures a line has its place until the end, and no longer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from coordinator.web.line_test import LineTest
from diffusion_at_home.linetest import LINE_TEST_PATH, MAX_LINE_TESTS

SCOPE = {"type": "http", "method": "POST", "path": LINE_TEST_PATH, "headers": [], "query_string": b""}


async def never() -> dict[str, Any]:
    """A body of which nothing comes."""
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> dict[str, Any]:
    """A client that has hung up."""
    return {"type": "http.disconnect"}


async def empty() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def post(test: LineTest, receive: Any) -> int:
    """The status of the answer; 0 if there is none."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await test(SCOPE, receive, send)
    return int(sent[0]["status"]) if sent else 0


@pytest.mark.parametrize(("receive", "status"), [(never, 408), (gone, 0)])
def test_who_dawdles_or_hangs_up_gives_the_place_to_the_next(receive: Any, status: int) -> None:
    async def scene() -> list[int]:
        test = LineTest(timedelta(milliseconds=10))
        return [await post(test, receive) for _ in range(MAX_LINE_TESTS)] + [await post(test, empty)]

    assert asyncio.run(scene()) == [*[status] * MAX_LINE_TESTS, 204]


def test_a_place_is_kept_while_the_measuring_lasts() -> None:
    async def scene() -> tuple[int, int]:
        test = LineTest(timedelta(hours=1))
        measuring = [asyncio.create_task(post(test, never)) for _ in range(MAX_LINE_TESTS)]
        await asyncio.sleep(0)
        during = await post(test, empty)
        for task in measuring:
            task.cancel()
        await asyncio.gather(*measuring, return_exceptions=True)
        return during, await post(test, empty)

    assert asyncio.run(scene()) == (503, 204)
