"""Where one run is to be found: its addresses, tried in turn from the one that answered last.

An operator may move a run, or start it again on another port, while its workers train: what does not answer is looked
for again. Another run at one of the addresses is named and passed by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx2

from diffusion_at_home import events
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import Busy, ConfigError, DahError, IntegrityError, RetryCall, Unreachable
from diffusion_at_home.runinfo import RunInfo
from worker.http_line import limits
from worker.run_address import RunAddress, find_run
from worker.stop import Interrupted
from worker.trust import Trust

_FAILURES: Final = 2
"""In a row, before the run is looked for again: one is soon lost on a line."""

_LOOK_SECONDS: Final = 5.0
"""Between two looks, however often calls fail."""

_log = events.logger("worker")


class _Instead(Unreachable):
    """Something else answers where the run should be."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where to work."""

    addresses: tuple[RunAddress, ...]
    """The one that answered last first."""
    run_id: str = ""
    """The run that must be there; empty if any will do."""
    known: bool = False
    """A run was joined there before: what answers otherwise is the line's fault and not a wrong address."""
    invite: str = ""
    """Code of an invitation, for a worker that the run does not know yet."""

    @property
    def address(self) -> RunAddress:
        """The first to try."""
        return self.addresses[0]


@dataclass(frozen=True, slots=True)
class Found:
    """A run at one of its addresses."""

    address: RunAddress
    info: RunInfo

    @property
    def target(self) -> str:
        """host:port of the worker protocol."""
        return self.address.grpc_target(self.info.grpc_port)

    @property
    def trust(self) -> Trust:
        """Whom to trust there."""
        return self.address.trust(self.info)


class Whereabouts:
    """See the module. May be used from any thread."""

    def __init__(self, place: Workplace, http: httpx2.Client, clock: Clock, on_found: Callable[[Found], None]) -> None:
        """`on_found` is told when the run answers at another address or port than before, with a lock held."""
        self._addresses = place.addresses
        self._run_id = place.run_id
        self._known = place.known
        self._http = http
        self._clock = clock
        self._on_found = on_found
        self._lock = threading.Lock()
        self._found: Found | None = None
        self._failures = 0
        self._looked_at = -_LOOK_SECONDS

    @property
    def addresses(self) -> Sequence[RunAddress]:
        """All of them, the one that answered last first."""
        return self._addresses

    @property
    def url(self) -> str:
        """The address that answered last."""
        return self._addresses[0].url

    def blob_url(self, sha256: str) -> str:
        """Where a blob is served now."""
        return self._addresses[0].blob_url(sha256)

    def find(self, interrupt: threading.Event) -> Found:
        """Ask each address once, until one answers as the run.

        Raises `RetryCall` that names what was found instead, `Interrupted`, `VersionMismatch` if the run is of another
        version wherever it is; and if no run was ever joined there, `ConfigError` for what is none.
        """
        with self._lock, limits(interrupt=interrupt):
            return self._find()

    def answered(self) -> None:
        """The run has answered where it was last found."""
        self._failures = 0

    def look_again(self, interrupt: threading.Event) -> RetryCall | None:
        """A call has failed: after some, look for the run again. Returns what stands in its place, if anything."""
        self._failures += 1
        if self._failures < _FAILURES or interrupt.is_set() or not self._lock.acquire(blocking=False):
            return None
        try:
            if self._clock.now() - self._looked_at < _LOOK_SECONDS:
                return None
            self._looked_at = self._clock.now()
            with limits(interrupt=interrupt):
                self._find()
        except Interrupted:
            pass
        except DahError as error:
            return error if isinstance(error, _Instead) else None
        finally:
            self._lock.release()
        return None

    def _find(self) -> Found:
        failures: list[DahError] = []
        for address in self._addresses:
            try:
                info = self._ask(address)
            except DahError as error:
                failures.append(error)
                continue
            self._settle(Found(address, info))
            assert self._found is not None
            return self._found
        raise self._worst(failures)

    def _ask(self, address: RunAddress) -> RunInfo:
        try:
            info = find_run(address, self._http, self._run_id)
        except (ConfigError, IntegrityError) as error:
            if not self._known:
                raise
            raise _Instead(f"{error}, and log in if this network asks you to") from None
        if self._run_id not in {"", info.run_id}:
            raise _Instead(f"{address.url} now serves another run, {info.run_id}: dah worker join {address}")
        return info

    def _settle(self, found: Found) -> None:
        self._run_id, self._known = found.info.run_id, True
        self._addresses = (found.address, *(other for other in self._addresses if other != found.address))
        before, self._found = self._found, found
        if before is None or (before.target, before.trust) != (found.target, found.trust):
            if before is not None:
                _log.info("coordinator_moved", address=found.address.url, target=found.target)
            self._on_found(found)

    @staticmethod
    def _worst(failures: list[DahError]) -> DahError:
        """What all of them together mean: to try again if that may help at any address."""
        retried = [failure for failure in failures if isinstance(failure, RetryCall)]
        if len(failures) == 1 or not retried:
            return failures[0]
        busy = [failure for failure in retried if isinstance(failure, Busy)]
        if busy:
            return busy[0]
        kind = _Instead if any(isinstance(failure, _Instead) for failure in retried) else Unreachable
        return kind("; ".join(str(failure) for failure in failures))
