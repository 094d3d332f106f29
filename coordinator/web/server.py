"""The HTTP server on the coordinator's own loop."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from coordinator.certificate import Certificate
from diffusion_at_home.errors import ConfigError, PortInUse

_BACKLOG: Final = 1024
"""Connections that may wait to be accepted: all workers of a run may come back at once."""

_MAX_CONNECTIONS: Final = 4096
"""Open at once, idle ones too, which are closed after seconds: a descriptor and some 50 kB each. More are answered 503."""

_STOP_GRACE_SECONDS: Final = 5
"""What a download has left when we stop; it may be resumed later."""


class WebServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    def __init__(self, app: ASGIApp, certificate: Certificate | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_STOP_GRACE_SECONDS,
                ssl_certfile=None if certificate is None else certificate.chain,
                ssl_keyfile=None if certificate is None else certificate.key,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bind(host: str, port: int, key: str) -> socket.socket:
    """A socket that listens at `host`:`port` (0: any free one). Raises `PortInUse`, `ConfigError` that name `key`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # from here on nobody is turned away, though the server answers a moment later
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror):
            raise ConfigError(f"server.host = {host!r} is not an address of this machine: change server.host") from None
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is in use: stop what listens there or change {key}") from None
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}): change server.host or {key}") from None
    listener.set_inheritable(False)
    return listener
