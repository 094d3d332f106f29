"""The way to a run: told of the end of every call, it keeps the client pointed at where the run is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import httpx2

from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import RetryCall
from worker.client import CoordinatorClient
from worker.patience import Patience
from worker.run_address import RunAddress
from worker.whereabouts import Found, Whereabouts, Workplace


class RunLine:
    """A client of the run at a place, found at the first call of `find` and again after failures."""

    def __init__(
        self, *, place: Workplace, http: httpx2.Client, patience: Patience, clock: Clock, stop: threading.Event
    ) -> None:
        """`patience` hears of answers; `stop` ends a search."""
        self._whereabouts = Whereabouts(place, http, clock, self._point)
        self._patience = patience
        self._stop = stop
        self._client: CoordinatorClient | None = None
        self._on_moved: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def client(self) -> CoordinatorClient:
        """Calls the run wherever it was found last."""
        assert self._client is not None, "find the run first"
        return self._client

    @property
    def addresses(self) -> Sequence[RunAddress]:
        """See `Whereabouts.addresses`."""
        return self._whereabouts.addresses

    @property
    def url(self) -> str:
        """See `Whereabouts.url`."""
        return self._whereabouts.url

    def blob_url(self, sha256: str) -> str:
        """See `Whereabouts.blob_url`."""
        return self._whereabouts.blob_url(sha256)

    def find(self) -> Found:
        """See `Whereabouts.find`."""
        return self._whereabouts.find(self._stop)

    def on_moved(self, then: Callable[[], object]) -> None:
        """Call `then` now, and whenever the run was found elsewhere."""
        self._on_moved = then
        then()

    def answered(self) -> None:
        """See `Line`: whoever waits because nobody answered tries again at once."""
        self._whereabouts.answered()
        self._patience.answered()

    def failed(self) -> RetryCall | None:
        """See `Line`: after some failures the run is looked for again."""
        return self._whereabouts.look_again(self._stop)

    def _point(self, found: Found) -> None:
        if self._client is None:
            self._client = CoordinatorClient(found.target, found.trust)
        else:
            self._client.point_at(found.target, found.trust)
        self._on_moved()
