"""Five hundred volunteers come back within a second of the coordinator's restart; then two thousand idle ones beat, too.

Each has a connection of its own. The five hundred have leases, which must outlive everything; they connect anew, beat with the
sessions that they had, then join again, as often as they are told to come back. The two thousand first beat, then wait for
work as workers do, in Lease, while one lease goes from hand to hand and wakes who waits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from simulator.fleet import FoundRun, watch_lag
from simulator.session import Lines, Refused, SimulatedSession, Unanswered
from simulator.tally import Tally

from benchmarks.figures import Figure
from benchmarks.load.latency import latencies
from benchmarks.site import QUIET, TINY, Site, site
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc import coordinator_pb2 as pb

_HOLDERS: Final = 500
_IDLERS: Final = 2_000
_BEAT_SECONDS: Final = 10.0
"""A third of lease.heartbeat_seconds' default: three times as many beats."""

_CHANGE_SECONDS: Final = 0.1
"""Between two leases that are given back and taken again."""

_JOIN_SECONDS: Final = 15.0
"""Within which the idle ones come."""

_ASK: Final = pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=20_000)

_RETRY_SECONDS: Final = 0.5
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
    lost: bool = False


def herd(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    with site(*_RUN, *overrides) as place:
        return asyncio.run(_herd(place, seconds=10.0 if quick else 60.0))


async def _herd(place: Site, seconds: float) -> dict[str, Figure]:
    rng, run = random.Random(0), await asyncio.to_thread(FoundRun.at, place.url)  # noqa: S311
    figures: dict[str, Figure] = {}
    async with AsyncExitStack() as stack:
        before = await _lines(run, _HOLDERS, stack)
        holders = [_Holder(_session(run, before, number, rng)) for number in range(_HOLDERS)]
        await asyncio.gather(*(_join(holder) for holder in holders))
        await asyncio.gather(*(_take_lease(holder) for holder in holders))
        *keepers, leaver = holders
        place.kill()
        figures["restart_seconds_herd"] = Figure((await asyncio.to_thread(place.start),), "s")

        anew = await _lines(run, _HOLDERS, stack)
        async with _phase("reconnect", ("join", "heartbeat"), holders, figures):
            await asyncio.gather(*(_come_back(holder, anew, n, rng) for n, holder in enumerate(holders)))

        stack.enter_context(_all(_beats(holder, rng) for holder in keepers))
        more = await _lines(run, _IDLERS, stack)
        idlers = [_Holder(_session(run, more, number, rng)) for number in range(_IDLERS)]
        await asyncio.gather(*(_come(idler, rng) for idler in idlers))
        with _all(_beats(idler, rng) for idler in idlers):
            async with _phase("idle", ("heartbeat",), [*keepers, *idlers], figures):
                await asyncio.sleep(seconds)

        await _give_back(leaver.session, leaver.lease_id)  # goes from one of those who wait to the next from now on
        with _all(_wait_for_work(idler.session) for idler in idlers):
            async with _phase("waiting", ("heartbeat",), keepers, figures):
                await asyncio.sleep(seconds)
    figures["leases_lost_herd"] = Figure((float(sum(holder.lost for holder in keepers)),), "leases")
    return figures


@asynccontextmanager
async def _phase(
    name: str, calls: Sequence[str], holders: Sequence[_Holder], figures: dict[str, Figure]
) -> AsyncIterator[None]:
    """Within, the calls of `holders` are timed."""
    tally = Tally()
    for holder in holders:
        holder.session.tally = tally
    with _all([watch_lag(lambda: tally)]):
        yield
    refused = sum(n for (call, _), n in tally.refusals.items() if call in calls)
    figures[f"busy_{name}"] = Figure((float(refused),), "refusals")
    figures |= latencies(tally, calls, name)


@contextmanager
def _all(works: Iterable[Coroutine[None, None, None]]) -> Iterator[None]:
    """Within, they run; none may have ended by itself."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()


async def _come_back(holder: _Holder, anew: Lines, number: int, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0, _WITHIN_SECONDS))
    holder.session.over(anew.of(number))
    await _beat(holder)  # a restarted coordinator still knows the session
    await _join(holder)
    await _beat(holder)


async def _come(idler: _Holder, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0, _JOIN_SECONDS))
    await _join(idler)


async def _join(holder: _Holder) -> None:
    """As often as it takes."""
    while True:
        try:
            return await holder.session.join()
        except Refused as refused:
            if refused.reason != "busy":
                raise
            await asyncio.sleep(refused.retry_after.total_seconds())
        except Unanswered:  # also what a server says that has too many streams
            await asyncio.sleep(_RETRY_SECONDS)


async def _beats(holder: _Holder, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0, _BEAT_SECONDS))
    while True:
        await _beat(holder)
        await asyncio.sleep(_BEAT_SECONDS)


async def _wait_for_work(idler: SimulatedSession) -> None:
    """Wait in Lease; give back soon what comes of it, whereby all who wait are woken."""
    while True:
        reply = await idler.lease(_ASK)
        if reply.WhichOneof("outcome") == "grant":
            await asyncio.sleep(_CHANGE_SECONDS)
            await _give_back(idler, reply.grant.lease_id)


async def _give_back(session: SimulatedSession, lease_id: int) -> None:
    await session.release(pb.ReleaseRequest(protocol_version=PROTOCOL_VERSION, lease_id=lease_id, reason="stopping"))


async def _take_lease(holder: _Holder) -> None:
    reply = await holder.session.lease(_ASK)
    assert reply.WhichOneof("outcome") == "grant", reply
    holder.lease_id = reply.grant.lease_id


async def _beat(holder: _Holder) -> None:
    request = pb.HeartbeatRequest(protocol_version=PROTOCOL_VERSION, lease_id=holder.lease_id)
    reply = await holder.session.heartbeat(request)
    holder.lost |= reply.order != pb.HeartbeatReply.ORDER_CONTINUE


async def _lines(run: FoundRun, count: int, stack: AsyncExitStack) -> Lines:
    lines = Lines(run.grpc_target, run.trust, channels=count)
    stack.push_async_callback(lines.close)
    return lines


def _session(run: FoundRun, lines: Lines, number: int, rng: random.Random) -> SimulatedSession:
    identity = Identity(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)))
    return SimulatedSession(identity=identity, run_id=run.info.run_id, channels=lines.of(number), tally=Tally())
