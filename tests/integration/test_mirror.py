"""A caching mirror: each blob is fetched once and compared with its name, within a disk's bound, and nothing else passes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coordinator.mirroring.serve import MirrorPlan, serve_mirror
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.errors import ConfigError, Unreachable

DATA = os.urandom(900_000)
OTHER = os.urandom(300_000)
NAME, OTHER_NAME = (hashlib.sha256(data).hexdigest() for data in (DATA, OTHER))


class Run:
    """What a mirror sees of a run; `distort` and `hold` are its faults."""

    def __init__(self) -> None:
        self.blobs = {NAME: DATA, OTHER_NAME: OTHER}
        self.asked: list[str] = []
        self.distort: Callable[[bytes], bytes] = lambda data: data
        self.leads_to = ""
        self.hold: threading.Event | None = None
        """Set by the test when the second half may come."""
        run = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                run.answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, request: Any) -> None:
        path, _, query = request.path.partition("?")
        if path == "/run.json":
            facts = {"run_id": "a-run", "run": "a", "protocol_version": PROTOCOL_VERSION, "grpc_port": 1}
            self._send(request, 200, json.dumps({**facts, "spec_sha256": NAME}).encode())
            return
        self.asked.append(request.path)
        data = self.blobs.get(path.removeprefix("/blobs/"))
        if data is None:
            self._send(request, 404, b"no\n")
        elif self.leads_to and query != "from=here":
            self._send(request, 307, b"", Location=self.leads_to)
        else:
            start = int(request.headers.get("Range", "bytes=0-")[6:-1])
            self._send(request, 206 if start else 200, self.distort(data), start)

    def _send(self, request: Any, status: int, body: bytes, start: int = 0, **headers: str) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        half = max(start, len(body) // 2)
        request.wfile.write(body[start:half])
        if self.hold is not None and len(body) > 1000:
            self.hold.wait(20)
        request.wfile.write(body[half:])

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


@pytest.fixture
def run() -> Iterator[Run]:
    found = Run()
    try:
        yield found
    finally:
        found.close()


class Mirror:
    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, name: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}/blobs/{name}", headers=headers, timeout=20)

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx2.get(f"{self.url}/mirror.json").json()
        return found


@contextmanager
def mirror_of(url: str, folder: Path, disk_bytes: int = 10**9) -> Iterator[Mirror]:
    """One that runs in a thread."""
    ready, where, errors = threading.Event(), [], []
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))

        def on_ready(_: str, at: str) -> None:
            where.append(at)
            ready.set()

        plan = MirrorPlan(url, folder, disk_bytes, "127.0.0.1", 0, fetches=2, certificate=None)
        await serve_mirror(plan, stop=over, on_ready=on_ready)

    def main() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 -- raised by the test
            errors.append(error)
        ready.set()

    thread = threading.Thread(target=main)
    thread.start()
    ready.wait(30)
    if not where:
        thread.join()
        raise errors[0]
    try:
        yield Mirror(where[0])
    finally:
        stop[0]()
        thread.join()
    if errors:
        raise errors[0]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_blob_is_fetched_once_and_kept_over_a_restart(run: Run, tmp_path: Path) -> None:
    with mirror_of(run.url, tmp_path) as mirror:
        assert mirror.get(NAME).content == DATA
        assert mirror.get(NAME).content == DATA
    with mirror_of(run.url, tmp_path) as mirror:
        part = mirror.get(NAME, Range="bytes=1000-")
        assert (part.status_code, part.content) == (206, DATA[1000:])
        assert part.headers["Content-Range"] == f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"
        assert mirror.get(NAME, Range="bytes=5-9").content == DATA[5:10]
        assert mirror.get(NAME, Range=f"bytes={len(DATA)}-").status_code == 416
        assert mirror.facts()["bytes"] == len(DATA)
    assert run.asked == [f"/blobs/{NAME}"]


def test_many_who_want_the_same_share_one_fetch_and_read_along(run: Run, tmp_path: Path) -> None:
    run.hold = threading.Event()
    with mirror_of(run.url, tmp_path) as mirror, ThreadPoolExecutor(6) as crowd:
        coming = [crowd.submit(mirror.get, NAME) for _ in range(5)]
        with httpx2.stream("GET", f"{mirror.url}/blobs/{NAME}", headers={"Range": "bytes=100-"}) as early:
            first = next(early.iter_raw(1000))  # while the rest is not even sent
            assert first == DATA[100:1100]
        run.hold.set()
        assert all(one.result().content == DATA for one in coming)
    assert run.asked == [f"/blobs/{NAME}"]


def test_wrong_bytes_are_neither_kept_nor_passed_on_whole(run: Run, tmp_path: Path) -> None:
    run.distort = lambda data: data[:-1] + b"x"
    with mirror_of(run.url, tmp_path) as mirror:
        with pytest.raises(httpx2.RemoteProtocolError):
            mirror.get(NAME)
        until(lambda: mirror.facts()["fetched"] == 1)
        assert not (tmp_path / NAME).exists()
        run.distort = lambda data: data
        assert mirror.get(NAME).content == DATA


def test_a_run_that_breaks_off_is_asked_for_the_rest(run: Run, tmp_path: Path) -> None:
    broken: list[bool] = []

    def breaks_off_once(data: bytes) -> bytes:
        if broken:
            return data
        broken.append(True)
        raise ConnectionResetError

    run.distort = breaks_off_once
    with mirror_of(run.url, tmp_path) as mirror:
        assert mirror.get(NAME).content == DATA
    assert run.asked == [f"/blobs/{NAME}", f"/blobs/{NAME}?from=here"]


def test_only_names_of_blobs_are_asked_for_and_what_is_unknown_only_once_in_a_while(run: Run, tmp_path: Path) -> None:
    unknown = "0" * 64
    with mirror_of(run.url, tmp_path) as mirror:
        for name in ("x", NAME.upper(), NAME[:-1], "..%2frun.json", "run", unknown, unknown):
            assert mirror.get(name).status_code == 404
        for path in ("/run.json", "/", "/metrics", f"/blobs/../{NAME}", f"/checkpoints/{NAME}/model"):
            assert httpx2.get(mirror.url + path).status_code == 404
    assert run.asked == [f"/blobs/{unknown}"]


def test_the_longest_unused_goes_when_the_disk_has_no_room(run: Run, tmp_path: Path) -> None:
    third = os.urandom(300_000)
    third_name = hashlib.sha256(third).hexdigest()
    run.blobs[third_name] = third
    with mirror_of(run.url, tmp_path, disk_bytes=1_300_000) as mirror:
        for name in (NAME, OTHER_NAME, NAME, third_name):
            assert mirror.get(name).status_code == 200
        until(lambda: mirror.facts()["blobs"] == 2)
        assert {path.name for path in tmp_path.iterdir() if len(path.name) == 64} == {NAME, third_name}
    with mirror_of(run.url, tmp_path / "small", disk_bytes=100_000) as mirror:
        answer = mirror.get(NAME)
        assert answer.status_code == 503
        assert "raise --disk-gb" in answer.text


def test_what_went_bad_on_the_disk_is_fetched_again_and_halves_are_forgotten(run: Run, tmp_path: Path) -> None:
    with mirror_of(run.url, tmp_path) as mirror:
        mirror.get(NAME)
    (tmp_path / NAME).write_bytes(b"x" + DATA[1:])
    (tmp_path / f"{OTHER_NAME}.part").write_bytes(OTHER[:1000])
    with mirror_of(run.url, tmp_path) as mirror:
        assert mirror.get(NAME).content == DATA
        assert mirror.get(OTHER_NAME).content == OTHER
    assert len(run.asked) == 3


@pytest.mark.parametrize("target", ["https://127.0.0.1:1/x", "http://store.example/x", "file:///etc/passwd"])
def test_where_a_mirror_cannot_or_must_not_go_the_run_is_asked_itself(run: Run, tmp_path: Path, target: str) -> None:
    run.leads_to = target
    with mirror_of(run.url, tmp_path) as mirror:
        assert mirror.get(NAME).content == DATA
    assert run.asked == [f"/blobs/{NAME}", f"/blobs/{NAME}?from=here"]


def test_a_mirror_serves_what_it_has_while_its_run_is_gone(run: Run, tmp_path: Path) -> None:
    with mirror_of(run.url, tmp_path) as mirror:
        mirror.get(NAME)
    run.close()
    with mirror_of(run.url, tmp_path) as mirror:
        assert mirror.get(NAME).content == DATA
        assert mirror.get(OTHER_NAME).status_code == 503


def test_a_first_start_wants_a_run_and_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run").write_text("another-run")
    for url, folder, kind, words in (
        ("http://127.0.0.1:9", tmp_path / "new", Unreachable, "nobody answers"),
        ("ftp://x", tmp_path / "new", ConfigError, "is not an address"),
        ("http://mirror.example", tmp_path / "new", ConfigError, "in plain text"),
        (run.url, tmp_path / "other", ConfigError, "is a mirror of another-run"),
    ):
        with pytest.raises(kind, match=words), mirror_of(url, folder):
            pass
    with (
        mirror_of(run.url, tmp_path / "new"),
        pytest.raises(ConfigError, match="another mirror uses"),
        mirror_of(run.url, tmp_path / "new"),
    ):
        pass
