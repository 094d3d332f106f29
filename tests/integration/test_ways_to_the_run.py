"""Workers reach a run over IPv6, and through an HTTP proxy where the machine says so."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from coordinator.run_folder import RunFolder
from tests.faults.processes import house, wait_until
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder
from worker.proxy import proxy_for

SHORT = ("lease.probe_steps=2", "evaluation.every_images=100000", "checkpoint.every_images=100000")
VARIABLES = [name for word in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (word, word.upper())]


class ConnectProxy:
    """Carries what it is asked to, as a company's or a campus's does; notes how it was asked."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for opened in self._open:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for opened in self._open:
            opened.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._open.append(near)
                self._start(self._serve, near)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := near.recv(4096)):
                    return
                head += piece
            line = head.partition(b"\r\n")[0].decode()
            method, target, _ = line.split(" ")
            self.requests.append(f"{method} {target}")
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                far = socket.create_connection((host.strip("[]"), int(port)))
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:  # one request a connection is enough here
                url = httpx2.URL(target)
                far = socket.create_connection((url.host, url.port or 80))
                rest = head.partition(b"\r\n")[2].replace(b"Connection: keep-alive", b"Connection: close")
                far.sendall(f"{method} {url.raw_path.decode()} HTTP/1.1\r\n".encode() + rest)
            self._open.append(far)
            self._start(self._carry, far, near)
            self._carry(near, far)

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def connect_proxy() -> Iterator[ConnectProxy]:
    proxy = ConnectProxy()
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.mark.parametrize("capitals", [False, True], ids=["small letters", "capitals"])
def test_worker_goes_through_the_proxy_with_all_it_has_to_say(tmp_path: Path, capitals: bool) -> None:
    name = "HTTP_PROXY" if capitals else "http_proxy"
    folder = tiny_run_folder(tmp_path, *SHORT)
    with serving(folder) as run, connect_proxy() as proxy, house(tmp_path) as home:
        worker = home.worker_at("worker", [run.url], "--leases", "2", environment={name: proxy.url})
        assert worker.wait() == 0, worker.output
    assert f"CONNECT {run.grpc_target}" in proxy.requests
    assert f"GET {run.url}/run.json" in proxy.requests
    assert any(request.startswith(f"GET {run.url}/blobs/") for request in proxy.requests)


def test_worker_passes_by_the_proxy_where_it_is_told_to(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SHORT)
    with serving(folder) as run, connect_proxy() as proxy, house(tmp_path) as home:
        environment = {"HTTP_PROXY": proxy.url, "NO_PROXY": "127.0.0.1"}
        worker = home.worker_at("worker", [run.url], "--leases", "1", environment=environment)
        assert worker.wait() == 0, worker.output
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"http_proxy": "p:3128"}, "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, None),
        ({"ALL_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "example"}, None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "run.example"}, None),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "other.example"}, "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128", "NO_PROXY": "*"}, None),
    ],
)
def test_proxy_of_an_address(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("http://run.example:8400/run.json") == proxy


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_run_and_worker_meet_over_ipv6(tmp_path: Path) -> None:
    folder: RunFolder = tiny_run_folder(tmp_path, *SHORT, "server.host='::1'")
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        assert run.url.startswith("http://[::1]:")
        worker = home.worker("worker", run, "--leases", "2")
        assert worker.wait() == 0, worker.output
        wait_until(lambda: run.status()["version"] >= 0, coordinator)
        assert worker.status["leases_done"] == 2
        assert coordinator.terminate() == 0
