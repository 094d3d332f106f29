"""One try to get a blob from one place: appends what is missing to a file, in time, and never much more than was announced.

The run itself may be slow: a volunteer's line may be. A stranger must do better than a bad line, for there are others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import httpx2

from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import Busy, LeaseLost, RetryCall, Unreachable
from worker.http_line import limits
from worker.mirrors import Origins
from worker.pacer import Pacer
from worker.run_address import HTTP_BUSY, retry_after
from worker.stop import Interrupted

GONE: Final = "blob_gone"
"""Reason of the `LeaseLost` that a place does not have the blob."""

_HEADERS: Final = timedelta(seconds=30)
"""Until the first byte of a body."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_URL: Final = 8192


@dataclass(frozen=True, slots=True)
class Pace:
    """A body that is slower for so long is taken for one that will never end; what has come stays."""

    bytes_per_second: float
    within: timedelta


RUN_PACE: Final = Pace(1_000, timedelta(seconds=60))
STRANGER_PACE: Final = Pace(20_000, timedelta(seconds=15))

_OWN_LIMIT_SHARE: Final = 1 / 8
"""Of a volunteer's own limit on the line, which several downloads may share: less than that is not the stranger's fault."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one blob may be."""

    url: str
    """Of the blob."""
    name: str
    """For people, and to remember how it did."""
    is_run: bool
    public_only: bool = False
    """Whether it must be at an address that everybody reaches."""


@dataclass(frozen=True, slots=True)
class Try:
    """What is asked of one place."""

    place: Place
    part: Path
    """Where what has come lies, and the rest is appended."""
    size_bytes: int
    """Of the whole blob."""
    origins: Origins
    """Is told who sends what."""
    interrupt: threading.Event


class Receiver:
    """Over one HTTP client; may be used from any thread."""

    def __init__(self, *, http: httpx2.Client, pacer: Pacer, clock: Clock, on_bytes: Callable[[int], None]) -> None:
        self._http = http
        self._pacer = pacer
        self._clock = clock
        self._on_bytes = on_bytes

    def receive(self, one: Try) -> str:
        """Append what is missing, one byte too many at most as the sign of a wrong size.

        Returns the URL to which the place leads on instead of sending the blob, or nothing. Raises `RetryCall`; `LeaseLost` if
        the blob is not there, or if the bytes may not pass; `Interrupted`.
        """
        place, part = one.place, one.part
        have = part.stat().st_size if part.exists() else 0
        if have >= one.size_bytes:
            return ""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        waits = limits(interrupt=one.interrupt, public_only=place.public_only)
        with _broken_off(place.name), waits, ExitStack() as opened:
            opened.enter_context(self._pacer.transfer(one.size_bytes - have))
            with limits(within=_HEADERS):
                asked = self._http.stream("GET", place.url, headers=headers, follow_redirects=False)
                response = opened.enter_context(asked)
            if response.status_code in _REDIRECTS:
                return _leads_to(response, place.name)
            if response.status_code == 416 and place.is_run:  # what we have is more than there is
                part.write_bytes(b"")
                return ""
            self._append(response, have if _resumes_at(response, have, place.name) else 0, one)
        if part.stat().st_size < one.size_bytes:
            raise Unreachable(f"the download from {place.name} ended early")
        return ""

    def _append(self, response: httpx2.Response, start: int, one: Try) -> None:
        one.origins.begins(one.place.name, start)
        floor = Floor(self._clock, RUN_PACE if one.place.is_run else self._stranger_pace())
        left = one.size_bytes - start
        with one.part.open("ab" if start else "wb") as file:
            for data in response.iter_raw(self._pacer.piece_bytes):  # as it comes, if nothing is limited
                self._on_bytes(len(data))
                self._pacer.passes(len(data))
                kept = data[: left + 1]
                file.write(kept)
                one.origins.passes(kept)
                left -= len(data)
                if left < 0:
                    return
                floor.passes(len(data))
                if one.interrupt.is_set():
                    raise Interrupted

    def _stranger_pace(self) -> Pace:
        own = self._pacer.bytes_per_second * _OWN_LIMIT_SHARE
        return Pace(min(STRANGER_PACE.bytes_per_second, own), STRANGER_PACE.within)


class Floor:
    """Takes a body that only drips for a dead one."""

    def __init__(self, clock: Clock, pace: Pace) -> None:
        self._clock = clock
        self._pace = pace
        self._begun_at = clock.now()
        self._num_bytes = 0

    def passes(self, num_bytes: int) -> None:
        """So much has come. Raises `Unreachable`."""
        self._num_bytes += num_bytes
        seconds = self._clock.now() - self._begun_at
        if seconds < self._pace.within.total_seconds():
            return
        if self._num_bytes < self._pace.bytes_per_second * seconds:
            raise Unreachable(
                f"a download only drips ({self._num_bytes / seconds:.0f} bytes a second): connecting anew"
            )
        self._begun_at, self._num_bytes = self._clock.now(), 0


@contextmanager
def _broken_off(name: str) -> Iterator[None]:
    try:
        yield
    except (httpx2.RequestError, httpx2.InvalidURL) as error:
        raise Unreachable(f"the download from {name} broke off ({type(error).__name__})") from None


def _leads_to(response: httpx2.Response, name: str) -> str:
    try:
        found = urljoin(str(response.url), response.headers.get("Location", ""))
    except ValueError:
        found = ""
    if not found or len(found) > _MAX_URL or found == str(response.url):
        raise Unreachable(f"{name} leads on to nowhere")
    return found


def _resumes_at(response: httpx2.Response, have: int, name: str) -> bool:
    """Whether the body continues after `have` bytes rather than starting anew; raises if there is no body.

    A store's URL is a key to it: what is said names the place instead.
    """
    status = response.status_code
    if status == 206 and have and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return True
    if status == 200:
        return False
    if status in {404, 410}:
        raise LeaseLost(f"{name} does not serve a blob any more", GONE)
    if status in HTTP_BUSY:
        raise Busy(f"{name} is busy", retry_after(response.headers))
    raise RetryCall(f"{name} answers with HTTP {status}")
