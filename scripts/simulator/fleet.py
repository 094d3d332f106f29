"""All volunteers of a fleet: they arrive, work, vanish without a word and come back with the same key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx2

from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from simulator.deltas import Deltas
from simulator.profile import Profile, draw, draw_fleet
from simulator.session import Lines, SimulatedSession
from simulator.settings import FleetSettings
from simulator.tally import Tally
from simulator.volunteer import Surroundings, Volunteer
from simulator.work import Pretended, Work
from worker.http_line import open_http
from worker.run_address import RunAddress, fetch_spec, find_run, pins
from worker.trust import Trust

OWN_LAG: Final = "(own lag)"
"""Among a tally's times: how late the fleet's own loop was."""

_LAG_SECONDS: Final = 0.05
"""Between two looks at how late the fleet's own loop is."""


@dataclass(frozen=True, slots=True)
class FoundRun:
    """What is served at an address."""

    address: RunAddress
    info: RunInfo
    spec: RunSpec

    @classmethod
    def at(cls, url: str) -> FoundRun:
        """Ask for it; blocks. Raises `ConfigError`, `Unreachable`, `VersionMismatch`, `IntegrityError`, `DataError`."""
        address = RunAddress.parse(url)
        with open_http(pins([address])) as http:
            info = find_run(address, http)
            return cls(address, info, fetch_spec(address, http, info))

    @property
    def grpc_target(self) -> str:
        """host:port."""
        return self.address.grpc_target(self.info.grpc_port)

    @property
    def trust(self) -> Trust:
        """Whom to trust there."""
        return self.address.trust(self.info)


async def watch_lag(tally: Callable[[], Tally]) -> None:
    """Note how late this loop is, until cancelled: what the times of calls contain that is not the coordinator's."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        tally().seconds[OWN_LAG].append(max(0.0, loop.time() - due))


class Fleet:
    """Within `joined`, its volunteers live. All on one loop."""

    def __init__(self, run: FoundRun, settings: FleetSettings, work: Callable[[Fleet], Work] | None = None) -> None:
        """`work` makes what they do with a lease; by default they pretend, each at its own speed."""
        self.run = run
        self.settings = settings
        self.tally = Tally()
        config = run.spec.config
        self.deltas = Deltas(config.codec.delta, run.info.num_parameters, count=settings.deltas, seed=settings.seed)
        self._work = work(self) if work else self.pretended(lambda number: self.volunteers[number].images_per_second)
        self._lives: dict[int, asyncio.Task[None]] = {}
        self.volunteers: Sequence[Volunteer] = ()

    def pretended(self, images_per_second: Callable[[int], float]) -> Pretended:
        """Work that takes time and computes nothing; the speed of a volunteer by its number."""
        batch_images = self.run.spec.config.inner.batch_images
        return Pretended(self.deltas, batch_images=batch_images, images_per_second=images_per_second)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[Sequence[asyncio.Task[None]]]:
        """Within, they live; each task ends when the run is complete, and raises what a volunteer should not meet."""
        channels = self.settings.channels or self.settings.workers
        lines = Lines(self.run.grpc_target, self.run.trust, channels=channels)
        async with httpx2.AsyncClient(timeout=60.0, verify=self.run.address.tls) as http:
            around = Surroundings(self.settings, self._work, self.deltas, self._fetcher(http))
            self.volunteers = [self._volunteer(profile, lines, around) for profile in draw_fleet(self.settings)]
            tasks = [asyncio.create_task(self._lives_of(volunteer)) for volunteer in self.volunteers]
            watch = asyncio.create_task(watch_lag(lambda: self.tally))
            try:
                yield tasks
            finally:
                for task in [*tasks, watch]:
                    task.cancel()
                await asyncio.gather(*tasks, watch, return_exceptions=True)
                await lines.close()

    async def work(self, seconds: float | None) -> None:
        """Live so long, or until the run is complete."""
        async with self.joined() as tasks:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()

    def kill(self, number: int) -> bool:
        """A volunteer vanishes now, to come back after its pause; False if it is away already."""
        life = self._lives.get(number)
        return life is not None and life.cancel()

    def phase(self) -> Tally:
        """What was seen so far; what is seen from now on goes into a new tally."""
        past, self.tally = self.tally, Tally()
        for volunteer in self.volunteers:
            volunteer.session.tally = self.tally
        return past

    async def _lives_of(self, volunteer: Volunteer) -> None:
        profile, life = volunteer.profile, self.settings.life
        await asyncio.sleep(profile.arrives_after_seconds)
        while True:
            current = asyncio.create_task(volunteer.live())
            self._lives[profile.number] = current
            seconds = profile.rng.expovariate(1 / life.mean_seconds) if life.mean_seconds else None
            try:
                await asyncio.wait({current}, timeout=seconds)
            finally:
                if not current.done():
                    current.cancel()
                    await asyncio.wait({current})
                del self._lives[profile.number]
            if not current.cancelled():
                current.result()
                return
            self.tally.counts["vanished"] += 1
            volunteer.forget()
            await asyncio.sleep(draw(life.pause, profile.rng))

    def _volunteer(self, profile: Profile, lines: Lines, around: Surroundings) -> Volunteer:
        session = SimulatedSession(
            identity=profile.identity,
            run_id=self.run.info.run_id,
            channels=lines.of(profile.number),
            tally=self.tally,
        )
        return Volunteer(profile, session, around)

    def _fetcher(self, http: httpx2.AsyncClient) -> _Fetcher | None:
        return _Fetcher(self.run.address, http) if self.settings.fetch_weights else None


class _Fetcher:
    def __init__(self, address: RunAddress, http: httpx2.AsyncClient) -> None:
        self._address = address
        self._http = http

    async def __call__(self, sha256: str) -> None:
        async with self._http.stream("GET", self._address.blob_url(sha256)) as response:
            response.raise_for_status()
            async for _ in response.aiter_raw():
                pass
