"""HTTP on lines that are silent, drip or redirect in circles: everything ends when it is to end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta

import httpx2
import pytest

from diffusion_at_home.errors import Busy, ConfigError, Unreachable
from worker.http_line import limits, open_http
from worker.run_address import RunAddress, find_run
from worker.stop import Interrupted

Answer = Callable[[socket.socket, threading.Event], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The URL of somebody who answers each connection so, told when it is over."""
    over, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                with closing(near), suppress(OSError):
                    near.recv(4096)
                    answer(near, over)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def silent(_: socket.socket, over: threading.Event) -> None:
    over.wait()


def dripping(start: bytes) -> Answer:
    """A byte now and then, each of them in time for a read."""

    def drip(near: socket.socket, over: threading.Event) -> None:
        near.sendall(start)
        while not over.wait(0.05):
            near.sendall(b"x")

    return drip


def at_once(reply: bytes) -> Answer:
    return lambda near, _: near.sendall(reply)


HEADERS = dripping(b"HTTP/1.1 200 OK\r\nX-")
BODY = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


@pytest.mark.parametrize("answer", [silent, HEADERS, BODY], ids=["silent", "headers", "body"])
def test_request_ends_with_its_time_however_it_drips(answer: Answer) -> None:
    within = limits(within=timedelta(seconds=0.5))
    with answering(answer) as url, open_http() as http, within, pytest.raises(httpx2.ReadTimeout):
        http.get(url)


@pytest.mark.parametrize("answer", [silent, HEADERS, BODY], ids=["silent", "headers", "body"])
def test_request_is_interrupted_wherever_it_waits(answer: Answer) -> None:
    interrupt = threading.Event()
    with answering(answer) as url, open_http() as http:
        threading.Timer(0.3, interrupt.set).start()
        with limits(interrupt=interrupt), pytest.raises(Interrupted):
            http.get(url)


def test_limits_end_with_their_block() -> None:
    with answering(at_once(b"HTTP/1.1 204 No Content\r\n\r\n")) as url, open_http() as http:
        with limits(within=timedelta(0)), pytest.raises(httpx2.TimeoutException):
            http.get(url)
        assert http.get(url).status_code == 204


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 302 Found\r\nLocation: /run.json\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: gopher://x/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"",
    ],
)
def test_nonsense_on_the_way_is_nobody(reply: bytes) -> None:
    with answering(at_once(reply)) as url, open_http() as http, pytest.raises(Unreachable):
        find_run(RunAddress.parse(url), http)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b'{"answer": 42}', b'{"run_id": "ti', b"", b"\xff"])
def test_another_page_is_no_run(body: bytes) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with answering(at_once(reply)) as url, open_http() as http, pytest.raises(ConfigError, match="serves no run"):
        find_run(RunAddress.parse(url), http)


@pytest.mark.parametrize(("header", "seconds"), [("Retry-After: 7", 7), ("X: y", 5), ("Retry-After: 9999999", 3600)])
def test_busy_page_says_when_to_come_back(header: str, seconds: float) -> None:
    reply = f"HTTP/1.1 503 Busy\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()
    with answering(at_once(reply)) as url, open_http() as http, pytest.raises(Busy) as busy:
        find_run(RunAddress.parse(url), http)
    assert busy.value.retry_after == timedelta(seconds=seconds)
