"""The run that a mirror mirrors, as it asks it: at most one step on to the run's store, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin

import httpx2
from pydantic import ValidationError

from diffusion_at_home import __version__
from diffusion_at_home.errors import ConfigError, Unreachable
from diffusion_at_home.runinfo import MAX_RUN_INFO_BYTES, RUN_INFO_PATH, RunInfo
from diffusion_at_home.strangers import FROM_HERE, is_private_place, is_public, may_ask
from diffusion_at_home.tls import check_pin, is_loopback, pinned_context, split_pin

_PIECE_BYTES: Final = 1 << 18
_SLOWEST_BYTES_PER_SECOND: Final = 1_000
_WINDOW_SECONDS: Final = 60.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_STORE_RESTS_SECONDS: Final = 300.0
"""After it failed; the run serves meanwhile."""


class NoSuchBlob(Exception):
    """The run does not have it."""


class RunBusy(Unreachable):
    """The run asks to come back after some seconds."""

    def __init__(self, retry_after: str) -> None:
        super().__init__("the run is busy")
        self.retry_after = (
            retry_after if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 5 else "5"
        )


class Upstream:
    """Closed with `close`."""

    def __init__(self, address: str) -> None:
        """Raises `ConfigError`."""
        self.url, self._pin = split_pin(address)
        try:
            host = httpx2.URL(self.url).host
        except httpx2.InvalidURL as error:
            raise ConfigError(f"{address!r} is not an address ({error}): give one like https://host:8400") from None
        if not self.url.startswith(("http://", "https://")) or not host:
            raise ConfigError(f"{address!r} is not an address: give one like https://host:8400")
        if self.url.startswith("http:") and (self._pin or not is_loopback(host)):
            raise ConfigError(f"{address!r} is in plain text: ask for the run's https address")
        self._run = self._client(pinned_context(self._pin) if self._pin else True)
        self._store = self._client(True)
        self._store_rests_until = -_STORE_RESTS_SECONDS

    @staticmethod
    def _client(verify: object) -> httpx2.AsyncClient:
        headers = {"User-Agent": f"diffusion-at-home/{__version__} (mirror)", "Accept-Encoding": "identity"}
        timeout = httpx2.Timeout(15.0, connect=10.0)
        return httpx2.AsyncClient(verify=verify, timeout=timeout, headers=headers, follow_redirects=False)  # type: ignore[arg-type]

    async def run_info(self) -> RunInfo:
        """What runs there.

        Raises `Unreachable`; `ConfigError` if it is no run; `IntegrityError` if it has another certificate.
        """
        try:
            async with self._run.stream("GET", self.url + RUN_INFO_PATH) as response:
                body = b""
                async for data in response.aiter_raw():
                    body += data
                    if len(body) > MAX_RUN_INFO_BYTES:
                        break
        except httpx2.RequestError:
            raise Unreachable(f"nobody answers at {self.url}: check the address, or try again later") from None
        if response.status_code >= 500:
            raise Unreachable(f"{self.url} answers with HTTP {response.status_code}: try again later")
        try:
            info = RunInfo.model_validate_json(body)
        except ValidationError:
            raise ConfigError(f"{self.url} serves no run: check the address") from None
        if self._pin:
            check_pin(info.certificate, self._pin)
        return info

    @asynccontextmanager
    async def blob(self, sha256: str, have: int = 0) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Within, the whole blob's size, and its bytes from `have` on as they come.

        Raises `NoSuchBlob`, `RunBusy`, `Unreachable`.
        """
        url = f"{self.url}/blobs/{sha256}"
        headers = {"Range": f"bytes={have}-"} if have else {}
        rests = time.monotonic() < self._store_rests_until
        try:
            async with self._run.stream("GET", f"{url}?{FROM_HERE}" if rests else url, headers=headers) as response:
                if response.status_code not in _REDIRECTS:
                    yield _size(response, have), _in_time(response)
                    return
                leads_to = urljoin(url, response.headers.get("Location", ""))
            if rests or not may_ask(leads_to, said_by=self.url):
                raise Unreachable(f"{self.url} leads on to where a mirror does not go")
            async with self._store.stream("GET", leads_to, headers=headers) as response:
                self._check_peer(response)
                yield _size(response, have), _in_time(response)
        except httpx2.RequestError as error:
            raise Unreachable(f"{self.url} broke off ({type(error).__name__})") from None

    def ask_the_run_itself(self) -> None:
        """For a while: what came another way was not right."""
        self._store_rests_until = time.monotonic() + _STORE_RESTS_SECONDS

    async def close(self) -> None:
        """Hang up."""
        await self._run.aclose()
        await self._store.aclose()

    def _check_peer(self, response: httpx2.Response) -> None:
        """Nothing is passed on of what only this machine's network can reach."""
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if not is_private_place(self.url) and not (peer and is_public(str(peer[0]))):
            raise Unreachable(f"{self.url} leads on into this machine's own network")


def _size(response: httpx2.Response, have: int) -> int:
    status, length = response.status_code, response.headers.get("Content-Length", "")
    if status in {404, 410}:
        raise NoSuchBlob
    if status in {429, 503}:
        raise RunBusy(response.headers.get("Retry-After", ""))
    resumed = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    if not (resumed if have else status == 200) or not length.isdecimal() or len(length) > 15:
        raise Unreachable(f"the run answers with HTTP {status} to who asks for a blob")
    return have + int(length)


async def _in_time(response: httpx2.Response) -> AsyncIterator[bytes]:
    begun_at, num_bytes = time.monotonic(), 0
    async for data in response.aiter_raw(_PIECE_BYTES):
        yield data
        num_bytes += len(data)
        seconds = time.monotonic() - begun_at
        if seconds > _WINDOW_SECONDS:
            if num_bytes < _SLOWEST_BYTES_PER_SECOND * seconds:
                raise Unreachable("the run only drips")
            begun_at, num_bytes = time.monotonic(), 0
