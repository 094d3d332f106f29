"""What many ask for at once: made once, told to all, and nobody who is slow or too many holds anything."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Scope

from coordinator.callers import Addresses, PlacesPerCaller
from coordinator.web.kept import Kept
from coordinator.web.live_events import Limits, LiveEvents
from diffusion_at_home.clock import ManualClock

QUICK = {"every_seconds": 0.01, "beat_seconds": 0.05, "send_seconds": 0.2}


def test_who_asks_meanwhile_waits_for_the_same_making() -> None:
    made: list[str] = []
    clock = ManualClock()

    async def make(key: str) -> str:
        made.append(key)
        await asyncio.sleep(0.01)
        return f"{key}{len(made)}"

    async def crowd() -> None:
        kept = Kept(make, seconds=10, most=2, clock=clock)
        assert await asyncio.gather(*(kept.get("a") for _ in range(50))) == ["a1"] * 50
        clock.advance(9)
        assert await kept.get("a") == "a1"
        clock.advance(1)
        assert await kept.get("a") == "a2"
        await kept.get("b")
        await kept.get("c")
        assert await kept.get("a") == "a5"  # of two, those asked for last

    asyncio.run(crowd())


def test_what_a_making_raises_is_kept_for_nobody() -> None:
    tries: list[int] = []

    async def make(key: int) -> int:
        tries.append(key)
        if len(tries) == 1:
            raise ValueError("once")
        return key

    async def ask() -> None:
        kept = Kept(make, seconds=10, most=2, clock=ManualClock())
        with pytest.raises(ValueError, match="once"):
            await kept.get(7)
        assert await kept.get(7) == 7

    asyncio.run(ask())


def test_who_hangs_up_leaves_the_making_to_the_others() -> None:
    async def make(key: int) -> int:
        await asyncio.sleep(0.02)
        return key

    async def ask() -> None:
        kept = Kept(make, seconds=10, most=2, clock=ManualClock())
        first, second = asyncio.ensure_future(kept.get(1)), asyncio.ensure_future(kept.get(1))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1

    asyncio.run(ask())


# -- events -----------------------------------------------------------------------------------------------------


class Listener:
    """One open page; `stuck` takes nothing."""

    def __init__(self, events: LiveEvents, *, stuck: bool = False) -> None:
        self.status = 0
        self.text = ""
        self._gone = asyncio.Event()
        self._heard = asyncio.Event()
        self._stuck = stuck
        self.task = asyncio.ensure_future(events(self._scope(), self._receive, self._send))

    @staticmethod
    def _scope() -> Scope:
        return {
            "type": "http",
            "method": "GET",
            "path": "/api/v1/events",
            "headers": [],
            "client": ("192.0.2.1", 1),
            "asgi": {"spec_version": "2.3"},
        }

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._stuck:
            await asyncio.Event().wait()
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()
        self._heard.set()

    async def leave(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 2)

    async def hears(self, text: str) -> None:
        async with asyncio.timeout(2):
            while text not in self.text:
                self._heard.clear()
                await self._heard.wait()


def told(script: Callable[[LiveEvents, list[str]], Awaitable[None]], *, places: int = 0, **limits: Any) -> None:
    async def run() -> None:
        now = ["first"]

        async def read() -> str:
            return now[0]

        events = LiveEvents(
            read,
            addresses=Addresses(()),
            places_of=PlacesPerCaller(places, random.Random(0)),
            limits=Limits(**(QUICK | limits)),
        )
        async with asyncio.timeout(10):
            await script(events, now)
        assert events.num_listeners == 0

    asyncio.run(run())


def test_every_listener_hears_what_is_and_what_changes() -> None:
    async def script(events: LiveEvents, now: list[str]) -> None:
        crowd = [Listener(events) for _ in range(20)]
        for listener in crowd:
            await listener.hears("event: live\ndata: first\n\n")
        now[0] = "second"
        for listener in crowd:
            await listener.hears("data: second\n\n")
            assert listener.text.count("data: ") == 2
        for listener in crowd:
            await listener.leave()

    told(script)


def test_a_listener_that_takes_nothing_loses_its_place_and_holds_up_nobody() -> None:
    async def script(events: LiveEvents, now: list[str]) -> None:
        stuck, well = Listener(events, stuck=True), Listener(events)
        await well.hears("first")
        now[0] = "second"
        await well.hears("second")
        await asyncio.wait_for(stuck.task, 2)
        await well.leave()

    told(script)


def test_who_is_too_many_is_told_to_come_back() -> None:
    async def script(events: LiveEvents, now: list[str]) -> None:  # noqa: ARG001
        first = Listener(events)
        await first.hears("first")
        second = Listener(events)
        await second.task
        assert (second.status, second.text) == (503, "many pages are listening\n")
        await first.leave()

    told(script, listeners=1)


def test_an_address_has_a_few_places() -> None:
    async def script(events: LiveEvents, now: list[str]) -> None:  # noqa: ARG001
        first = Listener(events)
        await first.hears("first")
        second = Listener(events)
        await second.task
        assert second.status == 503
        await first.leave()

    told(script, places=1)


def test_streams_end_when_the_run_is_no_longer_served() -> None:
    async def script(events: LiveEvents, now: list[str]) -> None:  # noqa: ARG001
        listener = Listener(events)
        await listener.hears("first")
        events.close()
        await asyncio.wait_for(listener.task, 2)
        late = Listener(events)
        await late.task
        assert late.status == 503

    told(script)
