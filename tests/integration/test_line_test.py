"""The line test of a real coordinator: bounded in size and in how many measure at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from threading import Event

import httpx2
import pytest

from diffusion_at_home.linetest import LINE_TEST_PATH, MAX_LINE_TEST_BYTES, MAX_LINE_TESTS
from tests.integration.live_run import DEADLINE_SECONDS, LiveRun, serving
from tests.unit.tiny_data import tiny_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    with serving(tiny_run_folder(tmp_path_factory.mktemp("run"))) as run:
        yield run


def post(run: LiveRun, content: bytes | Iterator[bytes]) -> httpx2.Response:
    return httpx2.post(run.url + LINE_TEST_PATH, content=content, timeout=DEADLINE_SECONDS, verify=False)


def connect(run: LiveRun) -> socket.socket:
    url = httpx2.URL(run.url)
    return socket.create_connection((url.host, url.port or 80), timeout=DEADLINE_SECONDS)


@pytest.mark.parametrize("num_bytes", [1, 65_536, 100_001, MAX_LINE_TEST_BYTES])
def test_so_many_bytes_come_as_were_asked_for(run: LiveRun, num_bytes: int) -> None:
    answer = run.get(f"{LINE_TEST_PATH}?bytes={num_bytes}")
    assert (answer.status_code, len(answer.content)) == (200, num_bytes)
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?bytes=-1", 400),
        ("?bytes=x", 400),
        (f"?bytes={'9' * 30}", 400),
        (f"?bytes={MAX_LINE_TEST_BYTES + 1}", 413),
    ],
)
def test_what_is_no_size_or_too_large_is_not_sent(run: LiveRun, query: str, status: int) -> None:
    assert run.get(LINE_TEST_PATH + query).status_code == status


@pytest.mark.parametrize("num_bytes", [0, 1, MAX_LINE_TEST_BYTES])
def test_a_body_within_the_bound_is_taken_and_nothing_of_it_kept(run: LiveRun, num_bytes: int) -> None:
    answer = post(run, bytes(num_bytes))
    assert (answer.status_code, answer.content) == (204, b"")
    assert list(run.folder.staging.iterdir()) == []


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(run: LiveRun) -> None:
    with closing(connect(run)) as line:
        head = f"POST {LINE_TEST_PATH} HTTP/1.1\r\nHost: run\r\nContent-Length: {MAX_LINE_TEST_BYTES + 1}\r\n\r\n"
        line.sendall(head.encode())
        assert line.recv(12) == b"HTTP/1.1 413"


def test_a_body_that_grows_too_large_is_refused_while_it_comes(run: LiveRun) -> None:
    with closing(connect(run)) as line:
        line.sendall(f"POST {LINE_TEST_PATH} HTTP/1.1\r\nHost: run\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(MAX_LINE_TEST_BYTES // 2**20):
            line.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        line.sendall(b"1\r\nx\r\n")  # one too many, and no end
        assert line.recv(12) == b"HTTP/1.1 413"


def test_one_more_than_may_measure_is_asked_to_come_back_and_then_is_served(run: LiveRun) -> None:
    with ExitStack() as measuring:
        for _ in range(MAX_LINE_TESTS):
            line = measuring.enter_context(closing(connect(run)))
            line.sendall(f"POST {LINE_TEST_PATH} HTTP/1.1\r\nHost: run\r\nContent-Length: 1000\r\n\r\n".encode())
        refused = until(run, 503)
        assert int(refused.headers["Retry-After"]) > 0
        assert post(run, b"x").status_code == 503
    until(run, 200)


def until(run: LiveRun, status: int) -> httpx2.Response:
    """The answer to a request for one byte, once it has `status`."""
    deadline, pause = time.monotonic() + DEADLINE_SECONDS, Event()
    while (answer := run.get(f"{LINE_TEST_PATH}?bytes=1")).status_code != status:
        assert time.monotonic() < deadline, answer
        pause.wait(0.02)
    return answer
