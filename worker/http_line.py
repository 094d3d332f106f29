"""HTTP whose every wait can be cut short: a line may be silent, drip, or swallow what it is sent.

httpx2 gives each read a time of its own and all of them together none, and a thread that waits in a read hears of
nothing else. Here reads wait in slices, names are looked up and connections made on a thread that may be left behind,
and `limits` says what ends them.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

import httpcore2
import httpx2

from diffusion_at_home import __version__
from diffusion_at_home.strangers import is_public
from diffusion_at_home.tls import pinned_context
from worker.proxy import proxy_for
from worker.stop import Interrupted

TIMEOUT: Final = httpx2.Timeout(5.0, read=15.0)
"""To connect to one of a host's addresses, and for one read (seconds)."""

_CONNECT_SECONDS: Final = 15.0
"""To look a host up and to try all its addresses."""

_KEEP_SECONDS: Final = 2.0
"""An idle connection is used again for so long: less than the coordinator keeps it, and the next one asks DNS anew."""

_SLICE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class _Limits:
    interrupts: tuple[threading.Event, ...] = ()
    end: float = math.inf
    public_only: bool = False

    def check(self) -> None:
        """Raise `Interrupted`, or `httpcore2.ReadTimeout` when the time is over."""
        if any(interrupt.is_set() for interrupt in self.interrupts):
            raise Interrupted
        if time.monotonic() >= self.end:
            raise httpcore2.ReadTimeout("took too long")


class _Here(threading.local):
    limits: _Limits = _Limits()


_here = _Here()


@contextmanager
def limits(
    *, interrupt: threading.Event | None = None, within: timedelta | None = None, public_only: bool = False
) -> Iterator[None]:
    """Within, on this thread, HTTP ends with `Interrupted` when `interrupt` is set and times out after `within`.

    With `public_only` it connects to no address of a network of one's own, wherever a name leads; a proxy may be there, and
    decides by itself where it connects to.
    """
    outer = _here.limits
    interrupts = outer.interrupts if interrupt is None else (*outer.interrupts, interrupt)
    end = outer.end if within is None else min(outer.end, time.monotonic() + within.total_seconds())
    _here.limits = _Limits(interrupts, end, public_only or outer.public_only)
    try:
        yield
    finally:
        _here.limits = outer


def open_http(pins: Mapping[str, str] = MappingProxyType({})) -> httpx2.Client:
    """The one HTTP client of a process; may be used from any thread.

    `pins` has the pin of the certificate for each `host:port` that has one (`diffusion_at_home.tls`).
    """
    headers = {"User-Agent": f"diffusion-at-home/{__version__}"}
    routes = _Routes(pins)
    return httpx2.Client(transport=routes, timeout=TIMEOUT, headers=headers, follow_redirects=True, max_redirects=5)


class _Routes(httpx2.BaseTransport):
    """Each request goes through the proxy that leads to its address, if any, and to the certificate that must be there."""

    def __init__(self, pins: Mapping[str, str]) -> None:
        self._pins = pins
        self._lock = threading.Lock()
        self._routes: dict[tuple[str | None, str], httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        route = (proxy_for(str(request.url)), self._pins.get(request.url.netloc.decode("ascii"), ""))
        with self._lock:
            if route not in self._routes:
                self._routes[route] = _transport(*route)
            transport = self._routes[route]
        return transport.handle_request(request)

    def close(self) -> None:
        for route in self._routes.values():
            route.close()


def _transport(proxy: str | None, pin: str) -> httpx2.HTTPTransport:
    kept = httpx2.Limits(keepalive_expiry=_KEEP_SECONDS)
    transport = httpx2.HTTPTransport(proxy=proxy, limits=kept, verify=pinned_context(pin) if pin else True)
    transport._pool._network_backend = _Backend(
        to_proxy=proxy is not None
    )  # httpcore2's documented seam, which httpx2 does not pass on
    return transport


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads look up now and then."""

    def __init__(self, real: httpcore2.NetworkStream) -> None:
        self._real = real

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            _here.limits.check()
            left = min(end, _here.limits.end) - time.monotonic()
            try:
                return self._real.read(max_bytes, min(max(left, 0.001), _SLICE_SECONDS))
            except httpcore2.ReadTimeout:
                if time.monotonic() >= end:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._real.write(buffer, timeout)

    def close(self) -> None:
        self._real.close()

    def start_tls(self, *arguments: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(self._real.start_tls(*arguments, **options))

    def get_extra_info(self, info: str) -> Any:
        return self._real.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Connects on a thread of its own: looking a host up cannot be interrupted."""

    def __init__(self, *, to_proxy: bool) -> None:
        self._to_proxy = to_proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        attempt = _Attempt(host, port, timeout, local_address, socket_options)
        threading.Thread(target=attempt.run, name="connect", daemon=True).start()
        stream = attempt.wait()
        if _here.limits.public_only and not self._to_proxy and not is_public(stream.get_extra_info("server_addr")[0]):
            stream.close()  # before a byte is sent
            raise httpcore2.ConnectError(f"{host} is in a network of this machine's own")
        return _Stream(stream)


class _Attempt:
    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._done: queue.SimpleQueue[httpcore2.NetworkStream | Exception] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._left = False

    def run(self) -> None:
        try:
            stream = httpcore2.SyncBackend().connect_tcp(*self._arguments)
        except Exception as error:  # noqa: BLE001 -- raised by the thread that waits
            self._done.put(error)
            return
        with self._lock:
            if self._left:
                stream.close()
            else:
                self._done.put(stream)

    def wait(self) -> httpcore2.NetworkStream:
        end = time.monotonic() + _CONNECT_SECONDS
        try:
            while True:
                _here.limits.check()
                if time.monotonic() >= end:
                    raise httpcore2.ConnectTimeout("took too long")
                try:
                    found = self._done.get(timeout=_SLICE_SECONDS)
                except queue.Empty:
                    continue
                if isinstance(found, Exception):
                    raise found
                return found
        except Exception:
            self._leave()
            raise

    def _leave(self) -> None:
        """Whatever comes of it is closed."""
        with self._lock:
            self._left = True
        while not self._done.empty():
            found = self._done.get()
            if not isinstance(found, Exception):
                found.close()
