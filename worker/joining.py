"""Joining a run: from the addresses a volunteer was given to an open session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import TypeVar

from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import Busy, ConfigError
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc.coordinator_pb2 import Hardware
from diffusion_at_home.tls import invite_of
from worker.backoff import Backoff
from worker.client import CoordinatorClient
from worker.http_line import open_http
from worker.join_stamp import JoinStamp
from worker.run_address import RunAddress, pins
from worker.session import Introduction, Line, Session, Untold
from worker.settings import WorkerSettings
from worker.state_folder import JoinedRun, StateFolder
from worker.whereabouts import Whereabouts, Workplace

_T = TypeVar("_T")


def new_session(
    *,
    client: CoordinatorClient,
    run_id: str,
    folder: StateFolder,
    introduction: Introduction,
    line: Line,
) -> Session:
    """A session with the run behind `client`, not yet open."""
    return Session(
        client=client,
        identity=Identity.load_or_create(folder.identity),
        run_id=run_id,
        introduction=introduction,
        stamp_ms=JoinStamp(folder.last_join).next_ms,
        line=line,
    )


def workplace(folder: StateFolder, urls: Sequence[str]) -> Workplace:
    """The run at `urls`, or the one joined last. Raises `ConfigError`."""
    joined = folder.joined_runs()
    if urls:
        known = {url for run in joined for url in (run.url, *run.others)}
        addresses = addresses_of(urls)
        is_known = any(str(address) in known for address in addresses)
        return Workplace(addresses, known=is_known, invite=invite_among(urls))
    if not joined:
        raise ConfigError("no run has been joined yet: name its address, as in dah worker run https://host:8400")
    last = joined[0]
    return Workplace(addresses_of((last.url, *last.others)), last.run_id, known=True)


def addresses_of(urls: Sequence[str]) -> tuple[RunAddress, ...]:
    """Each once. Raises `ConfigError`."""
    return tuple(dict.fromkeys(RunAddress.parse(url) for url in urls))


def invite_among(urls: Iterable[str]) -> str:
    """The invitation that comes with any of them."""
    return next((code for url in urls if (code := invite_of(url))), "")


def remember(folder: StateFolder, run_id: str, title: str, addresses: Sequence[RunAddress]) -> JoinedRun:
    """Note where a run was found, and where else it may be: also what an earlier start was told."""
    known = [url for run in folder.joined_runs() if run.run_id == run_id for url in (run.url, *run.others)]
    return folder.remember(run_id, title, list(dict.fromkeys([*map(str, addresses), *known])))


def join_run(
    settings: WorkerSettings,
    urls: Sequence[str],
    hardware: Callable[[], Hardware],
    on_busy: Callable[[str, float], None],
) -> JoinedRun:
    """Be admitted to the run at `urls` and remember it. `hardware` is asked once the run has answered.

    Raises `Unreachable`, `VersionMismatch`, `NotAdmitted`, `ConfigError`: nothing is retried but a busy coordinator, of
    which `on_busy` is told with the seconds until the next try.
    """
    backoff = Backoff(settings.retry_floor_seconds, settings.retry_ceiling_seconds)
    never = threading.Event()

    def patiently(attempt: Callable[[], _T]) -> _T:
        while True:
            try:
                return attempt()
            except Busy as busy:
                seconds = backoff.named_seconds(busy.retry_after)
                on_busy(str(busy), seconds)
                never.wait(seconds)

    folder = StateFolder(settings.state_dir)
    addresses = addresses_of(urls)
    with open_http(pins(addresses)) as http:
        place = Whereabouts(Workplace(addresses), http, SystemClock(), lambda _: None)
        found = patiently(lambda: place.find(never))
    client = CoordinatorClient(found.target, found.trust)
    with closing(client):
        session = new_session(
            client=client,
            run_id=found.info.run_id,
            folder=folder,
            introduction=Introduction(settings.display_name, hardware(), invite_among(urls), settings.team),
            line=Untold(),
        )
        patiently(lambda: session.open(never))
    return folder.remember(found.info.run_id, found.info.title, list(map(str, place.addresses)))
