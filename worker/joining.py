"""Joining a run: from the address a volunteer was given to an open session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx2

from diffusion_at_home import __version__
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc.coordinator_pb2 import Hardware
from diffusion_at_home.runinfo import RunInfo
from worker.client import CoordinatorClient
from worker.run_address import RunAddress, find_run
from worker.session import Session
from worker.settings import WorkerSettings
from worker.state_folder import JoinedRun, StateFolder

_TIMEOUT: Final = httpx2.Timeout(5.0, read=15.0)


def open_http() -> httpx2.Client:
    """The one HTTP client of a process."""
    headers = {"User-Agent": f"diffusion-at-home/{__version__}"}
    return httpx2.Client(timeout=_TIMEOUT, headers=headers, follow_redirects=True)


@contextmanager
def new_session(
    *, address: RunAddress, info: RunInfo, settings: WorkerSettings, folder: StateFolder, hardware: Hardware
) -> Iterator[Session]:
    """A session with the run at `address`, not yet open; its connection is closed afterwards."""
    client = CoordinatorClient(address.grpc_target(info.grpc_port), secure=address.secure)
    try:
        yield Session(
            client=client,
            identity=Identity.load_or_create(folder.identity),
            run_id=info.run_id,
            display_name=settings.display_name,
            hardware=hardware,
        )
    finally:
        client.close()


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where to work."""

    address: RunAddress
    run_id: str
    """The run that must be there; empty if any will do."""


def workplace(folder: StateFolder, url: str | None) -> Workplace:
    """The run at `url`, or the one joined last. Raises `ConfigError`."""
    if url is not None:
        return Workplace(RunAddress.parse(url), "")
    joined = folder.joined_runs()
    if not joined:
        raise ConfigError("no run has been joined yet: name its address, as in dah worker run http://host:8400")
    return Workplace(RunAddress.parse(joined[0].url), joined[0].run_id)


def join_run(settings: WorkerSettings, url: str, hardware: Callable[[], Hardware]) -> JoinedRun:
    """Be admitted to the run at `url` and remember it. `hardware` is asked once the run has answered.

    Raises `Unreachable`, `VersionMismatch`, `NotAdmitted`, `ConfigError`: nothing is retried.
    """
    address = RunAddress.parse(url)
    with open_http() as http:
        info = find_run(address, http)
    folder = StateFolder(settings.state_dir)
    with new_session(address=address, info=info, settings=settings, folder=folder, hardware=hardware()) as session:
        session.open(threading.Event())
    return folder.remember(info.run_id, info.title, address.url)
