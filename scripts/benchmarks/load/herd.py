"""Five hundred volunteers come back within a second of the coordinator's restart; then two thousand idle ones beat, too.

Each of the five hundred has a lease, which must outlive everything, and a connection of its own, which it opens anew.
Two thousand more share connections; first they beat, then they wait for work as workers do, in Lease, while leases come and go.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from simulator.fleet import FoundRun, watch_lag
from simulator.session import Lines, SimulatedSession
from simulator.tally import Tally

from benchmarks.figures import Figure
from benchmarks.load.latency import latencies
from benchmarks.site import QUIET, TINY, Site, site
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc import coordinator_pb2 as pb

_HOLDERS: Final = 500
_IDLERS: Final = 2_000
_SHARED: Final = 100
"""Connections of the idle ones."""

_BEAT_SECONDS: Final = 10.0
"""A third of lease.heartbeat_seconds' default: three times as many beats."""

_CHANGE_SECONDS: Final = 0.1
"""Between two leases that are given back and taken again."""

_WITHIN_SECONDS: Final = 1.0
_BATCH: Final = 8
_RUN: Final = (
    *QUIET,
    *TINY,
    f"inner.batch_images={_BATCH}",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    f"round.images={_HOLDERS * _BATCH}",
    "round.max_seconds=86400.0",
    f"lease.heartbeat_seconds={_BEAT_SECONDS}",
    "lease.timeout_seconds=30.0",
)


@dataclass(slots=True)
class _Holder:
    """One that has a lease."""

    session: SimulatedSession
    lease_id: int = 0


def herd(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    with site(*_RUN, *overrides) as place:
        figures = asyncio.run(_herd(place, seconds=20.0 if quick else 60.0))
        with place.ledger() as ledger:
            held = len(ledger.active_leases())
    return figures | {"leases_lost_herd": Figure((float(_HOLDERS - held),), "leases")}


async def _herd(place: Site, seconds: float) -> dict[str, Figure]:
    rng, run = random.Random(0), await asyncio.to_thread(FoundRun.at, place.url)  # noqa: S311
    figures: dict[str, Figure] = {}
    async with AsyncExitStack() as stack:
        before = await _lines(run, 20, stack)
        holders = [_Holder(_session(run, before, number, rng)) for number in range(_HOLDERS)]
        await asyncio.gather(*(holder.session.join() for holder in holders))
        await asyncio.gather(*(_take_lease(holder) for holder in holders))
        place.kill()
        figures["restart_seconds_herd"] = Figure((await asyncio.to_thread(place.start),), "s")

        anew = await _lines(run, _HOLDERS, stack)
        figures |= await _phase("reconnect", holders, lambda: _all_return(holders, anew, rng))

        shared = await _lines(run, _SHARED, stack)
        idlers = [_session(run, shared, number, rng) for number in range(_IDLERS)]
        await asyncio.gather(*(_after(rng.uniform(0, _BEAT_SECONDS), idler.join) for idler in idlers))
        beating = [*holders, *(_Holder(idler) for idler in idlers)]
        figures |= await _phase("idle", beating, lambda: _all_beat(beating, seconds, rng))
        waiting = asyncio.gather(*(_wait_for_work(idler) for idler in idlers))
        try:
            figures |= await _phase("waiting", holders, lambda: _beat_and_change(holders, seconds, rng))
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    return figures


async def _phase(name: str, holders: Sequence[_Holder], work: Callable[[], Awaitable[None]]) -> dict[str, Figure]:
    tally = Tally()
    for holder in holders:
        holder.session.tally = tally
    watch = asyncio.create_task(watch_lag(lambda: tally))
    try:
        await work()
    finally:
        watch.cancel()
    assert not tally.refusals, tally.refusals
    return latencies(tally, name)


async def _all_return(holders: Sequence[_Holder], anew: Lines, rng: random.Random) -> None:
    async def come_back(number: int, holder: _Holder) -> None:
        holder.session.over(anew.of(number))
        await holder.session.join()
        await _beat(holder)

    await asyncio.gather(
        *(
            _after(rng.uniform(0, _WITHIN_SECONDS), partial(come_back, number, holder))
            for number, holder in enumerate(holders)
        )
    )


async def _all_beat(holders: Sequence[_Holder], seconds: float, rng: random.Random) -> None:
    async def beats(holder: _Holder) -> None:
        await asyncio.sleep(rng.uniform(0, _BEAT_SECONDS))
        while True:
            await _beat(holder)
            await asyncio.sleep(_BEAT_SECONDS)

    beating = asyncio.gather(*(beats(holder) for holder in holders))
    await asyncio.wait({beating}, timeout=seconds)
    beating.cancel()
    with suppress(asyncio.CancelledError):
        await beating


async def _beat_and_change(holders: Sequence[_Holder], seconds: float, rng: random.Random) -> None:
    """Beat, while one after another gives its lease back and asks again: each time all who wait are woken."""

    async def change() -> None:
        while True:
            holder = rng.choice(holders)
            await holder.session.release(
                pb.ReleaseRequest(protocol_version=PROTOCOL_VERSION, lease_id=holder.lease_id, reason="stopping")
            )
            await _take_lease(holder)
            await asyncio.sleep(_CHANGE_SECONDS)

    changing = asyncio.create_task(change())
    await _all_beat(holders, seconds, rng)
    changing.cancel()
    with suppress(asyncio.CancelledError):
        await changing


async def _wait_for_work(idler: SimulatedSession) -> None:
    request = pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=20_000)
    while True:
        reply = await idler.lease(request)
        assert reply.WhichOneof("outcome") == "idle", reply


async def _take_lease(holder: _Holder) -> None:
    request = pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=20_000)
    reply = await holder.session.lease(request)
    assert reply.WhichOneof("outcome") == "grant", reply
    holder.lease_id = reply.grant.lease_id


async def _beat(holder: _Holder) -> None:
    request = pb.HeartbeatRequest(protocol_version=PROTOCOL_VERSION, lease_id=holder.lease_id)
    reply = await holder.session.heartbeat(request)
    assert reply.order == pb.HeartbeatReply.ORDER_CONTINUE, reply


async def _after(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await work()


async def _lines(run: FoundRun, count: int, stack: AsyncExitStack) -> Lines:
    lines = Lines(run.grpc_target, secure=False, channels=count)
    stack.push_async_callback(lines.close)
    return lines


def _session(run: FoundRun, lines: Lines, number: int, rng: random.Random) -> SimulatedSession:
    identity = Identity(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)))
    return SimulatedSession(identity=identity, run_id=run.info.run_id, channels=lines.of(number), tally=Tally())
