"""A run's address: one HTTP URL from which everything else is found."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx2
from pydantic import ValidationError

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.errors import Busy, ConfigError, IntegrityError, RetryCall, Unreachable, VersionMismatch
from diffusion_at_home.runinfo import MAX_RUN_INFO_BYTES, RUN_INFO_PATH, RunInfo
from diffusion_at_home.runspec import MAX_SPEC_BYTES, RunSpec
from diffusion_at_home.tls import check_pin, is_loopback, pinned_context, split_pin, with_pin
from diffusion_at_home.upgrade import told_to_worker
from worker.http_line import limits
from worker.trust import Trust

HTTP_BUSY: Final = frozenset({429, 503})

_WHOLE: Final = timedelta(seconds=30)
"""For /run.json, however it drips."""

_BUSY_RETRY: Final = timedelta(seconds=5)
_LONGEST_RETRY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class RunAddress:
    """A checked URL without its trailing slash, and which certificate must be there."""

    url: str
    pin: str = ""
    """See `diffusion_at_home.tls`; empty where the system's authorities vouch, or on this machine."""

    @classmethod
    def parse(cls, text: str) -> RunAddress:
        """Read what a volunteer typed. Raises `ConfigError`."""
        plain, pin = split_pin(text)
        try:
            url = httpx2.URL(plain)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"{text!r} is not an address ({error}): give one like https://host:8400") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise ConfigError(f"{text!r} is not an address: give one like https://host:8400")
        if url.scheme == "http" and (pin or not is_loopback(url.host)):
            raise ConfigError(
                f"{text!r} is in plain text, which anybody on the way can read and change: ask for the run's https address"
            )
        return cls(str(url).rstrip("/"), pin)

    def __str__(self) -> str:
        return with_pin(self.url, self.pin)

    @property
    def tls(self) -> ssl.SSLContext | bool:
        """What an HTTP client should verify there."""
        return pinned_context(self.pin) if self.pin else True

    def trust(self, info: RunInfo) -> Trust:
        """Whom the worker protocol is to trust there, where `info` was served."""
        if not self.url.startswith("https:"):
            return Trust(secure=False)
        return Trust(secure=True, certificate=info.certificate if self.pin else "")

    def grpc_target(self, port: int) -> str:
        """host:port of the worker protocol."""
        host = httpx2.URL(self.url).host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def blob_url(self, sha256: str) -> str:
        """Where a blob is served."""
        return f"{self.url}/blobs/{sha256}"

    def failed(self) -> RetryCall | None:
        """See `worker.blobs.BlobPlace`: an address knows no better reason."""
        return None


def pins(addresses: Iterable[RunAddress]) -> dict[str, str]:
    """What `open_http` wants to know of `addresses`."""
    return {httpx2.URL(address.url).netloc.decode("ascii"): address.pin for address in addresses if address.pin}


def find_run(address: RunAddress, http: httpx2.Client, run_id: str = "") -> RunInfo:
    """What is served at `address`, where `run_id` is looked for: another run is not judged by its version.

    Raises `Unreachable`; `Busy`; `VersionMismatch` if it speaks another protocol; `ConfigError` if it is no run; `IntegrityError`
    if it shows another certificate than the pinned one.
    """
    try:
        with limits(within=_WHOLE), http.stream("GET", address.url + RUN_INFO_PATH) as response:
            status, headers = response.status_code, response.headers
            body = _read_bounded(response, MAX_RUN_INFO_BYTES)
    except (httpx2.RequestError, httpx2.InvalidURL):
        raise Unreachable(f"nobody answers at {address.url}: check the address, or try again later") from None
    if status in HTTP_BUSY:
        raise Busy(f"{address.url} is busy", retry_after(headers))
    if status >= 500:
        raise Unreachable(f"{address.url} answers with HTTP {status}")
    try:
        info = RunInfo.model_validate_json(body)
    except ValidationError:
        raise ConfigError(f"{address.url} serves no run: check the address") from None
    if address.pin:
        check_pin(info.certificate, address.pin)
    if info.protocol_version != PROTOCOL_VERSION and run_id in {"", info.run_id}:
        raise VersionMismatch(
            f"{address.url} speaks protocol {info.protocol_version}, this software {PROTOCOL_VERSION}: "
            f"{told_to_worker(info.protocol_version)}"
        )
    return info


def retry_after(headers: httpx2.Headers) -> timedelta:
    """When a busy server wants to be asked again, within reason whatever it says."""
    text = headers.get("Retry-After", "")
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        return _BUSY_RETRY
    return min(timedelta(seconds=int(text)), _LONGEST_RETRY)


def fetch_spec(address: RunAddress, http: httpx2.Client, info: RunInfo) -> RunSpec:
    """The specification of the run at `address`, without joining it. Raises `Unreachable`, `IntegrityError`, `DataError`."""
    try:
        with http.stream("GET", address.blob_url(info.spec_sha256)) as response:
            status = response.status_code
            body = _read_bounded(response, MAX_SPEC_BYTES)
    except (httpx2.RequestError, httpx2.InvalidURL):
        raise Unreachable(f"{address.url} broke off: try again later") from None
    if status != httpx2.codes.OK:
        raise Unreachable(f"{address.url} answers with HTTP {status} when asked for its specification: try again later")
    if hashlib.sha256(body).hexdigest() != info.spec_sha256:
        raise IntegrityError(f"{address.url} serves another specification than it announces: do not join it")
    return RunSpec.from_bytes(body)


def _read_bounded(response: httpx2.Response, max_bytes: int) -> bytes:
    """The body, or nothing if it is longer than that."""
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > max_bytes:
            return b""
    return bytes(body)
