"""One token that calls a thousand times a second, and two hundred streams that hand in a byte now and then: what others notice.

Twenty workers hold leases and beat twice a second, each over a connection of its own: first alone, then beside each attack; with
the limits on, then with them off. The attackers come over this machine's own network address, and share the machine with all
others: the flood with one token, from a process of its own, the streams with two hundred. Beside these an honest worker hands in.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import multiprocessing.connection
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from ipaddress import ip_address
from socket import AF_INET
from types import TracebackType
from typing import Final, Self

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from simulator.deltas import Deltas
from simulator.fleet import FoundRun, watch_lag
from simulator.session import Lines, Refused, SimulatedSession, Unanswered
from simulator.tally import Tally

from benchmarks.figures import Figure
from benchmarks.load.latency import latencies
from benchmarks.site import QUIET, TINY, Site, site
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.vector import size_bounds

_BEATERS: Final = 20
_BEAT_SECONDS: Final = 0.5
_PER_SECOND: Final = 1_000
_AT_ONCE: Final = 32
"""Calls of the flood that wait for their answers."""

_STREAMS: Final = 200
_DRIP_SECONDS: Final = 1.0
_MIB: Final = 2**20
_BATCH: Final = 8
_HANDED_IN: Final = 20
_RUN: Final = (
    *QUIET,
    *TINY,
    f"inner.batch_images={_BATCH}",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    "round.images=1000000",
    "round.max_seconds=86400.0",
    "lease.timeout_seconds=3600.0",
    "server.host='0.0.0.0'",
    "server.tls='proxy'",  # plain text
    "server.max_joins_per_minute_and_address=0",  # or the attackers would come one by one
    "server.max_joins_per_second=1000",
)
_OFF: Final = ("server.max_calls_per_second_and_worker=0", "server.max_uploads_per_address=0")


def flood(quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See the module."""
    seconds = 5.0 if quick else 20.0
    figures: dict[str, Figure] = {}
    with _Flood() as flooding:
        for case, limits in (("on", ()), ("off", _OFF)):
            with site(*_RUN, *limits, *overrides) as place:
                figures |= asyncio.run(_attacked(place, flooding, seconds, case))
    return figures


async def _attacked(place: Site, flooding: _Flood, seconds: float, case: str) -> dict[str, Figure]:
    run = await asyncio.to_thread(FoundRun.at, place.local_url)
    figures: dict[str, Figure] = {}
    codec = run.spec.config.codec.delta
    async with AsyncExitStack() as stack:
        lines = await _lines(run, _BEATERS + 2, stack)
        beaters = [_session(run, lines, number) for number in range(_BEATERS)]
        leases = [(await _joined(beater)).lease_id for beater in beaters]
        figures |= await _beaten(beaters, leases, seconds, f"idle_{case}")
        before = place.process.memory_info().rss

        await asyncio.to_thread(flooding.begin, place.local_url, seconds)
        figures |= await _beaten(beaters, leases, seconds, f"flood_{case}")
        sent, refused = await asyncio.to_thread(flooding.end)
        figures[f"flood_calls_per_second_{case}"] = Figure((sent / seconds,), "calls/s")
        figures[f"flood_refused_{case}"] = Figure((refused / max(sent, 1),), "share of the calls")
        place.check()

        slow = await _lines(run, _STREAMS, stack, own_address())
        size = size_bounds(codec, run.info.num_parameters)[1]
        drips = [asyncio.create_task(_drip(_session(run, slow, number), size)) for number in range(_STREAMS)]
        await asyncio.sleep(seconds / 2)
        honest, deltas = _session(run, lines, _BEATERS + 1), Deltas(codec, run.info.num_parameters, count=1, seed=0)
        await honest.join()
        handed_in = await _hand_in(honest, deltas, seconds)
        figures |= await _beaten(beaters, leases, seconds / 2, f"streams_{case}")
        figures[f"handed_in_streams_{case}"] = Figure((float(handed_in),), f"of {_HANDED_IN} in {seconds:g} s")
        figures[f"open_streams_{case}"] = Figure((float(sum(not drip.done() for drip in drips)),), "streams")
        figures[f"memory_growth_mib_flood_{case}"] = Figure(((place.process.memory_info().rss - before) / _MIB,), "MiB")
        for drip in drips:
            drip.cancel()
        await asyncio.gather(*drips, return_exceptions=True)
        place.check()
    return figures


async def _beaten(
    beaters: Sequence[SimulatedSession], leases: Sequence[int], seconds: float, name: str
) -> dict[str, Figure]:
    """How long the heartbeats of `beaters` take."""
    tally = Tally()
    lag = asyncio.create_task(watch_lag(lambda: tally))

    async def beat(session: SimulatedSession, lease_id: int, until: float) -> None:
        session.tally = tally
        await asyncio.sleep(random.uniform(0, _BEAT_SECONDS))  # noqa: S311
        while time.monotonic() < until:
            await session.heartbeat(pb.HeartbeatRequest(protocol_version=PROTOCOL_VERSION, lease_id=lease_id))
            await asyncio.sleep(_BEAT_SECONDS)

    until = time.monotonic() + seconds
    await asyncio.gather(*(beat(session, lease, until) for session, lease in zip(beaters, leases, strict=True)))
    lag.cancel()
    return latencies(tally, ("heartbeat",), name)


class _Flood:
    """From another process, which takes long to start."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_floods, args=(theirs,), daemon=True)
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def begin(self, url: str, seconds: float) -> None:
        """Returns once it has joined the run at `url`, which it floods for `seconds`."""
        self._pipe.send((url, seconds))
        self._pipe.recv()

    def end(self) -> tuple[int, int]:
        """Calls that were made, and how many of them were refused."""
        sent, refused = self._pipe.recv()
        return int(sent), int(refused)


def _floods(pipe: multiprocessing.connection.Connection) -> None:
    while True:
        url, seconds = pipe.recv()
        pipe.send(asyncio.run(_one_flood(url, seconds, lambda: pipe.send("joined"))))


async def _one_flood(url: str, seconds: float, on_joined: Callable[[], None]) -> tuple[int, int]:
    sent = refused = 0

    run = await asyncio.to_thread(FoundRun.at, url)
    async with AsyncExitStack() as stack:
        session = _session(run, await _lines(run, 1, stack, own_address()), 0)
        await session.join()
        on_joined()
        places, began = asyncio.Semaphore(_AT_ONCE), time.monotonic()

        async def call() -> None:
            nonlocal sent, refused
            async with places:
                sent += 1
                try:
                    await session.heartbeat(pb.HeartbeatRequest(protocol_version=PROTOCOL_VERSION))
                except (Refused, Unanswered):
                    refused += 1

        calls: list[asyncio.Task[None]] = []
        while (now := time.monotonic() - began) < seconds:
            calls += [asyncio.create_task(call()) for _ in range(int(now * _PER_SECOND) - len(calls))]
            await asyncio.sleep(0.005)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    return sent, refused


async def _drip(session: SimulatedSession, size_bytes: int) -> None:
    """Hand in for ever, as slowly as is borne, and again when that ends."""
    grant = await _joined(session)
    header = pb.SubmitHeader(
        protocol_version=PROTOCOL_VERSION,
        lease_id=grant.lease_id,
        sha256=hashlib.sha256(str(grant.lease_id).encode()).hexdigest(),
        size_bytes=size_bytes,
        images=_BATCH,
    )
    session.sign(header, grant)
    asked = pb.SubmitOffsetRequest(protocol_version=PROTOCOL_VERSION, lease_id=grant.lease_id, sha256=header.sha256)
    while True:
        try:
            header.offset = await session.submit_offset(asked)
            await session.submit(_slow_parts(header))
        except Refused as refused:
            await asyncio.sleep(refused.retry_after.total_seconds())
        except Unanswered:
            await asyncio.sleep(_DRIP_SECONDS)


async def _slow_parts(header: pb.SubmitHeader) -> AsyncIterator[pb.SubmitRequest]:
    yield pb.SubmitRequest(header=header)
    while True:
        yield pb.SubmitRequest(chunk=b"\0")
        await asyncio.sleep(_DRIP_SECONDS)


async def _hand_in(session: SimulatedSession, deltas: Deltas, seconds: float) -> int:
    """How many contributions are taken within `seconds`, of as many as are wanted."""
    done = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while done < _HANDED_IN:
                done += await _one_hand_in(session, deltas)
    return done


async def _one_hand_in(session: SimulatedSession, deltas: Deltas) -> bool:
    reply = await session.lease(pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=10_000))
    delta = deltas.next()
    header = pb.SubmitHeader(
        protocol_version=PROTOCOL_VERSION,
        lease_id=reply.grant.lease_id,
        sha256=delta.sha256,
        size_bytes=delta.size_bytes,
        images=reply.grant.quota_images,
    )
    session.sign(header, reply.grant)

    async def parts() -> AsyncIterator[pb.SubmitRequest]:
        yield pb.SubmitRequest(header=header)
        for piece in delta.pieces(0, session.max_chunk_bytes):
            yield pb.SubmitRequest(chunk=piece)

    while True:
        try:
            await session.submit(parts())
        except (Refused, Unanswered) as no:
            await asyncio.sleep(no.retry_after.total_seconds() if isinstance(no, Refused) else 1.0)
        else:
            return True


async def _joined(session: SimulatedSession) -> pb.LeaseGrant:
    """The lease of a worker that has just joined."""
    await session.join()
    reply = await session.lease(pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=10_000))
    assert reply.WhichOneof("outcome") == "grant", reply
    return reply.grant


async def _lines(run: FoundRun, count: int, stack: AsyncExitStack, host: str = "127.0.0.1") -> Lines:
    lines = Lines(f"{host}:{run.info.grpc_port}", run.trust, channels=count)
    stack.push_async_callback(lines.close)
    return lines


def own_address() -> str:
    """An address of this machine that is not loopback."""
    found = (
        address.address for card in psutil.net_if_addrs().values() for address in card if address.family == AF_INET
    )
    return str(next(address for address in found if not ip_address(address).is_loopback))


def _session(run: FoundRun, lines: Lines, number: int) -> SimulatedSession:
    identity = Identity(Ed25519PrivateKey.generate())
    return SimulatedSession(identity=identity, run_id=run.info.run_id, channels=lines.of(number), tally=Tally())
