"""Joining a run: from the address a volunteer was given to an open session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2

from diffusion_at_home import __version__
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc.coordinator_pb2 import Hardware
from diffusion_at_home.runinfo import RunInfo
from worker.client import CoordinatorClient
from worker.run_address import RunAddress, find_run
from worker.session import Session
from worker.settings import WorkerSettings
from worker.state_folder import JoinedRun, StateFolder

_TIMEOUT = httpx2.Timeout(10.0, read=30.0)


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


def join_run(settings: WorkerSettings, url: str, hardware: Callable[[], Hardware]) -> JoinedRun:
    """Be admitted to the run at `url` and remember it. `hardware` is asked once the run has answered.

    Raises `Unreachable`, `VersionMismatch`, `NotAdmitted`, `ConfigError`: nothing is retried.
    """
    address = RunAddress.parse(url)
    with open_http() as http:
        info = find_run(address, http)
    folder = StateFolder(settings.state_dir)
    with new_session(address=address, info=info, settings=settings, folder=folder, hardware=hardware()) as session:
        session.open()
    return folder.remember(info.run_id, info.title, address.url)
