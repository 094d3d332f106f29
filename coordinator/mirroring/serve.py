"""A mirror from its start to its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.admission import Admission
from coordinator.certificate import Certificate
from coordinator.mirroring.app import Mirror, Tally
from coordinator.mirroring.cache import MirrorCache
from coordinator.mirroring.upstream import Upstream
from coordinator.web.server import WebServer, bind
from diffusion_at_home import events
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.config.run import ServerSection
from diffusion_at_home.errors import ConfigError, Unreachable, storage_errors

_RUN: Final = "run"
"""File in its folder that says whose mirror it is."""

_log = events.logger("mirror")


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """What one is told."""

    address: str
    """Of the run."""
    folder: Path
    disk_bytes: int
    host: str
    port: int
    fetches: int
    """Blobs that are fetched from the run at once."""
    certificate: Certificate | None
    """None is plain text, for what speaks TLS in front of it."""


async def serve_mirror(plan: MirrorPlan, *, stop: asyncio.Event, on_ready: Callable[[str, str], None]) -> Tally:
    """Until `stop` is set; `on_ready` is told the run and where it listens.

    Raises `ConfigError`, `PortInUse`, `StorageError`; `Unreachable` if the run does not answer at the very first start.
    """
    upstream = Upstream(plan.address)
    cache = MirrorCache(plan.folder, plan.disk_bytes)
    with cache.locked():
        run_id = await _run_of(upstream, _Known(plan.folder / _RUN))
        listener = bind(plan.host, plan.port, "--port")
        server = ServerSection()
        mirror = Mirror(
            run_id=run_id,
            upstream=upstream,
            cache=cache,
            admission=Admission.of(server, SystemClock(), random.Random(), lambda: 0.0),  # noqa: S311 -- no secret
            fetches=plan.fetches,
        )
        web = WebServer(mirror.app(), plan.certificate)
        task = asyncio.create_task(web.serve(sockets=[listener]))
        scheme = "http" if plan.certificate is None else "https"
        host = f"[{plan.host}]" if ":" in plan.host else plan.host
        on_ready(run_id, f"{scheme}://{host}:{listener.getsockname()[1]}")
        _log.info("mirror_started", run=run_id, blobs=cache.num_blobs, bytes=cache.size_bytes)
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await mirror.close()
            web.should_exit = True
            await task
        return mirror.tally


class _Known:
    """Whose mirror a folder is, as far as an earlier start has noted it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.run_id = file.read_text(encoding="utf-8").strip() if file.is_file() else ""

    def note(self, run_id: str) -> None:
        """Raises `ConfigError` if it is another run's."""
        if self.run_id not in {"", run_id}:
            raise ConfigError(f"{self._file.parent} is a mirror of {self.run_id}, not of {run_id}: name another folder")
        with storage_errors(self._file):
            self._file.write_text(run_id, encoding="utf-8")


async def _run_of(upstream: Upstream, known: _Known) -> str:
    """The run's id; that of the last start if nobody answers now."""
    try:
        run_id = (await upstream.run_info()).run_id
    except Unreachable:
        if not known.run_id:
            raise
        return known.run_id
    known.note(run_id)
    return run_id
