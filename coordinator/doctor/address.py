"""What can be told of the way to the run: its certificate, its ports, and whether it answers at its own address."""

from __future__ import annotations

import json
import socket
import ssl
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from coordinator.certificate import choose_certificate, read_validity
from coordinator.web.server import bind
from diffusion_at_home import __version__
from diffusion_at_home.config.run import ServerSection, Tls
from diffusion_at_home.doctor import Check, checked, fine, problem, skipped, warning
from diffusion_at_home.errors import ConfigError, IntegrityError, PortInUse, Unreachable
from diffusion_at_home.runinfo import RUN_INFO_PATH, RunInfo
from diffusion_at_home.tls import is_loopback, pinned_context, split_pin

_SECONDS: Final = 5.0
_SOON: Final = timedelta(days=21)
_MOST_BYTES: Final = 64 * 2**20
_EVERYWHERE: Final = {"0.0.0.0", "::"}  # noqa: S104 -- compared with, not listened on


def check_certificate(server: ServerSection, own: Path, now: datetime) -> Check:
    """What volunteers are shown, whether it names the run's host, and until when it is good; `own` is the run's own folder."""

    def look() -> Check:
        match server.tls:
            case Tls.PROXY:
                return skipped("certificate", "something in front of the coordinator speaks TLS: look at its own")
            case Tls.AUTO if is_loopback(server.host):
                return skipped("certificate", "none is needed, as plain text stays on this machine")
            case Tls.AUTO | Tls.OWN if not (own / "certificate.pem").is_file():
                return fine("certificate", "the run's own, which the first start makes")
        shown = choose_certificate(server, own)
        assert shown is not None
        validity = read_validity(shown.chain)
        until = f"good until {validity.until:%Y-%m-%d}"
        if validity.until <= now:
            advice = f"renew {shown.chain}, and start the coordinator again"
            return problem("certificate", f"it has run out: {until}", advice, ConfigError)
        if shown.pin:
            return fine("certificate", f"the run's own, {shown.pin[:16]}..., which volunteers know by its fingerprint")
        host = server.name or server.host
        if not validity.names_host(host):
            advice = f"get one for {host}, or set server.name to what it names"
            return problem("certificate", f"it is for {', '.join(validity.names) or 'nobody'}", advice, ConfigError)
        if validity.until - now < _SOON:
            advice = f"renew {shown.chain}, and start the coordinator again"
            return warning("certificate", f"for {host}, {until}", advice)
        return fine("certificate", f"for {host}, {until}")

    return checked("certificate", look, "see server.certificate", ConfigError)


def check_name(server: ServerSection) -> Check:
    """Whether the address that volunteers are told can be reached from elsewhere."""
    host = server.name or server.host
    if host in _EVERYWHERE:
        return warning("name", f"volunteers are told {host}, which leads nowhere", "set server.name at `init`")
    if is_loopback(host):
        return fine("name", f"{host}: for volunteers on this machine alone")
    return fine("name", host)


def check_ports(server: ServerSection) -> Check:
    """Whether a coordinator could listen where the config says."""

    def look() -> Check:
        for port, key in ((server.http_port, "server.http_port"), (server.grpc_port, "server.grpc_port")):
            bind(server.host, port, key).close()
        return fine("ports", f"{server.http_port} and {server.grpc_port} are free; no coordinator runs")

    return checked("ports", look, "see server.http_port", PortInUse)


class Visit:
    """One look at a coordinator that runs, by the address that volunteers have."""

    def __init__(self, address: str, run_id: str) -> None:
        """Raises `ConfigError` if it is no address."""
        self._url, self._pin = split_pin(address)
        self._run_id = run_id
        self._grpc_port = 0

    def checks(self) -> list[Check]:
        """Lines of both ports, and of what the coordinator itself sees."""
        tell = "see that the address leads to this machine, and that its firewall lets both ports in"
        http = checked("http", self._look_at_run, tell, Unreachable)
        if not self._grpc_port:
            return [http, skipped("grpc", "no run was found"), skipped("problems", "no run was found")]
        return [
            http,
            checked("grpc", self._look_at_grpc, tell, Unreachable),
            *self._look_at_problems(),
        ]

    def _look_at_run(self) -> Check:
        try:
            info = RunInfo.model_validate_json(self._get(RUN_INFO_PATH))
        except ValueError:
            raise Unreachable(f"something else answers at {self._url}: stop it, or change server.http_port") from None
        if info.run_id != self._run_id:
            raise IntegrityError(f"{self._url} serves another run, {info.run_id}: see where its name leads")
        self._grpc_port = info.grpc_port
        return fine("http", f"{self._url} answers{', with its pinned certificate' if self._pin else ''}")

    def _look_at_grpc(self) -> Check:
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        with socket.create_connection((host, self._grpc_port), timeout=_SECONDS) as line:
            if parts.scheme == "https":
                context = pinned_context(self._pin) if self._pin else ssl.create_default_context()
                context.set_alpn_protocols(["h2"])
                with context.wrap_socket(line, server_hostname=host) as spoken:
                    if spoken.selected_alpn_protocol() != "h2":
                        raise Unreachable(f"port {self._grpc_port} does not speak gRPC: see what listens there")
        return fine("grpc", f"port {self._grpc_port} answers")

    def _look_at_problems(self) -> list[Check]:
        try:
            problems: list[dict[str, Any]] = json.loads(self._get("/status.json"))["live"]["problems"]
        except (Unreachable, ValueError, KeyError, TypeError):
            return [warning("problems", "the coordinator does not say its status", "start it again")]
        return [_told(one) for one in problems] or [fine("problems", "the coordinator sees none")]

    def _get(self, path: str) -> bytes:
        verify = pinned_context(self._pin) if self._pin else True
        headers = {"User-Agent": f"diffusion-at-home/{__version__}"}
        data = bytearray()
        try:
            with (
                httpx2.Client(timeout=_SECONDS, verify=verify, trust_env=False, headers=headers) as http,
                http.stream("GET", self._url + path) as response,
            ):
                for piece in response.iter_bytes():
                    data += piece
                    if len(data) > _MOST_BYTES:
                        break
        except httpx2.HTTPError as error:
            raise Unreachable(f"{self._url} does not answer ({type(error).__name__})") from None
        return bytes(data)


def _told(one: dict[str, Any]) -> Check:
    sentence, _, advice = str(one["sentence"]).rpartition(": ")
    return warning("problems", f"{one['name']}: {sentence or advice}", advice if sentence else "see ARCHITECTURE.md")
