"""Workers train on bytes from mirrors and a bucket, whoever of these lies, dies or is killed; the coordinator sends few."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from coordinator.replay import replay
from tests.faults.processes import house, wait_until
from tests.integration.live_run import LiveRun
from tests.integration.s3_server import KEYS, s3_server
from tests.unit.tiny_data import tiny_run_folder

ENDLESS = (
    "run.total_images=1000000",
    "round.images=64",
    "lease.min_steps=2",
    "lease.probe_steps=2",
    "lease.max_steps=4",
    "evaluation.every_images=1000000",
    "checkpoint.every_images=1000000",
    "model.prx.hidden_size=128",  # so that a version weighs more than what is said about it
)
MOST_SHARE = 0.01
PATIENCE = 240.0
"""Seconds: a store, a mirror and two workers start beside each other."""

AT_ONCE = 4
"""Downloads of one worker that may have begun before the first of them found a mirror out."""


@contextmanager
def liar() -> Iterator[tuple[str, list[str]]]:
    """A mirror that sends a long wrong file whatever it is asked for; and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(b"lies" * 2**20)
            except OSError:
                return  # the worker has had enough

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def counted(run: LiveRun, name: str) -> float:
    """A metric's value; 0 if it is not there yet."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", run.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def sent(run: LiveRun) -> float:
    return counted(run, 'dah_sent_bytes_total{kind="blob"}')


def test_training_goes_on_whoever_of_those_with_the_bytes_lies_or_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_run_folder(tmp_path, *ENDLESS)
    files = len(list(folder.blobs.iterdir()))  # the specification, shards, version 0
    port, dead = free_port(), free_port()
    with s3_server(tmp_path / "s3", monkeypatch) as store, liar() as (lies, asked), house(tmp_path) as home:
        urls = [lies, f"http://127.0.0.1:{dead}", f"http://127.0.0.1:{port}"]
        folder.elsewhere.write_text(store.settings(f"mirrors = {urls}"))
        coordinator, run = home.coordinator(folder, environment=KEYS)
        wait_until(lambda: counted(run, "dah_bucket_files") == files, coordinator, patience_seconds=PATIENCE)
        mirror = home.start("mirror", "mirror", run.url, str(tmp_path / "mirror"), "--port", str(port), "--json")
        wait_until(lambda: f"127.0.0.1:{port} mirrors" in mirror.output, mirror, patience_seconds=PATIENCE)
        before = sent(run)
        workers = [home.worker(name, run) for name in ("anna", "bert")]

        def go_on(more: int) -> None:
            version = run.status()["version"] + more
            wait_until(lambda: run.status()["version"] >= version, coordinator, *workers, patience_seconds=PATIENCE)

        done = [lambda worker=worker: worker.status.get("leases_done", 0) or None for worker in workers]
        for has_done in done:
            wait_until(has_done, coordinator, *workers, patience_seconds=PATIENCE)
        go_on(3)
        assert httpx2.get(f"http://127.0.0.1:{port}/mirror.json").json()["sent_bytes"] > 0
        assert 0 < len(asked) <= AT_ONCE * len(workers)
        for worker in workers:
            assert "it sent wrong bytes" in worker.output
            assert worker.status["refusals"] == {}

        mirror.kill()
        redirects = counted(run, "dah_redirects_total")
        go_on(3)
        assert counted(run, "dah_redirects_total") > redirects
        here, down = sent(run) - before, sum(worker.status["bytes_down"] for worker in workers)
        print(f"{here:.0f} bytes from the coordinator, {down} by the workers: {100 * here / down:.3f} %")  # noqa: T201
        assert here < MOST_SHARE * down

        store.kill()
        go_on(2)
        assert [problem["name"] for problem in run.status()["live"]["problems"]] == ["bucket"]
        for worker in workers:
            assert worker.status["refusals"] == {}
            assert worker.terminate() == 0, worker.output
        assert coordinator.terminate() == 0, coordinator.output
    replay(folder)
