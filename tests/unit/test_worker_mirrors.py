"""A mirror that lies, dies or drips is left within one try, the bytes of others stay, and nobody is blamed for them."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from diffusion_at_home.clock import ManualClock
from diffusion_at_home.errors import LeaseLost, RetryCall, Unreachable
from diffusion_at_home.strangers import is_public, may_ask
from tests.unit.tiny_run import no_limit
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.mirrors import STORE, Mirrors
from worker.pacer import Pacer
from worker.patience import Patience
from worker.run_address import RunAddress

DATA = bytes(range(256)) * 1000
BLOB = BlobRef(hashlib.sha256(DATA).hexdigest(), len(DATA))
NEVER = threading.Event()
RUN = "https://run.example"
A, B, C = (f"https://{name}.example/some" for name in "abc")

Server = Callable[[httpx2.Request], httpx2.Response]


@contextmanager
def fail_instead_of_waiting(why: RetryCall) -> Iterator[None]:
    raise AssertionError(f"waited: {why}")
    yield


class Body(httpx2.SyncByteStream):
    def __init__(self, data: bytes, before_each: Callable[[], object], cut: bool) -> None:
        self._data = data
        self._before_each = before_each
        self._cut = cut

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), 10_000):
            self._before_each()
            yield self._data[start : start + 10_000]
        if self._cut:
            raise httpx2.RemoteProtocolError("cut")


class Serves:
    """Whatever is asked for, as `distort` makes it; at most `upto` bytes of the file, then the line is cut."""

    def __init__(
        self,
        distort: Callable[[bytes], bytes] = lambda data: data,
        upto: int | None = None,
        before_each: Callable[[], object] = lambda: None,
    ) -> None:
        self._data = distort(DATA)
        self._upto = upto
        self._before_each = before_each
        self.asked: list[str | None] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        headers = {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
        body = Body(self._data[start : self._upto], self._before_each, cut=self._upto is not None)
        return httpx2.Response(206 if start else 200, headers=headers, stream=body)


def lying(data: bytes) -> bytes:
    return b"x" + data[1:]


def answers(status: int, **headers: str) -> Server:
    return lambda _: httpx2.Response(status, headers=headers)


def leads_to(url: str) -> Server:
    return answers(307, Location=url)


def nobody(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("nobody")


class InThatOrder(random.Random):
    def shuffle(self, x: object) -> None:
        """Chance has left it so."""


class World:
    """A run and its mirrors, as one worker sees them."""

    def __init__(self, folder: Path, servers: Mapping[str, Server], listed: tuple[str, ...] = (A, B)) -> None:
        self.clock = ManualClock()
        self.mirrors = Mirrors(listed, RUN, self.clock, InThatOrder())
        self.cache = BlobCache(folder / "blobs", 3 * len(DATA))
        self.received = 0
        self._servers = servers
        self.requests: list[str] = []
        self.blobs = BlobFetcher(
            pacer=no_limit(),
            address=RunAddress.parse(RUN),
            http=httpx2.Client(transport=httpx2.MockTransport(self._answer), follow_redirects=True),
            cache=self.cache,
            patience=Patience(Backoff(1, 300), fail_instead_of_waiting),
            on_bytes=self._on_bytes,
            mirrors=self.mirrors,
        )

    def fetch(self) -> None:
        self.blobs.fetch(BLOB, NEVER)

    def fetch_again(self) -> None:
        self.cache.path(BLOB.sha256).unlink()
        self.fetch()

    def has_it(self) -> bool:
        return self.cache.path(BLOB.sha256).read_bytes() == DATA

    def _on_bytes(self, num_bytes: int) -> None:
        self.received += num_bytes

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        url = str(request.url)
        self.requests.append(url)
        host = f"{request.url.scheme}://{request.url.host}"
        return next(server for base, server in self._servers.items() if base.startswith(host))(request)


def test_a_blob_comes_from_a_mirror_and_the_run_is_not_asked(tmp_path: Path) -> None:
    world = World(tmp_path, {A: Serves(), B: nobody, RUN: nobody})
    world.fetch()
    assert world.has_it()
    assert world.requests == [f"{A}/blobs/{BLOB.sha256}"]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(Serves(lying), id="lies"),
        pytest.param(Serves(lambda data: data + b"x"), id="sends too much"),
        pytest.param(Serves(lambda data: data[:-1]), id="sends too little"),
        pytest.param(nobody, id="is dead"),
        pytest.param(Serves(upto=70_000), id="breaks off"),
        pytest.param(answers(500), id="fails"),
        pytest.param(answers(503, **{"Retry-After": "7"}), id="is busy"),
        pytest.param(answers(404), id="lacks it"),
        pytest.param(answers(416), id="denies the range"),
        pytest.param(leads_to("https://c.example/"), id="leads on"),
        pytest.param(answers(307), id="leads nowhere"),
    ],
)
def test_a_mirror_that_fails_is_left_within_one_try(tmp_path: Path, bad: Server) -> None:
    world = World(tmp_path, {A: bad, B: Serves(), C: Serves(), RUN: nobody})
    world.fetch()
    assert world.has_it()
    assert world.mirrors.to_ask() == [B]
    world.fetch_again()
    assert [url.startswith(A) for url in world.requests] == [True, False, False]


def test_a_mirror_that_only_drips_is_left_within_one_try(tmp_path: Path) -> None:
    world = World(tmp_path, {A: Serves(before_each=lambda: world.clock.advance(6)), B: Serves(), RUN: nobody})
    world.fetch()
    assert world.has_it()
    assert world.mirrors.to_ask() == [B]
    assert world.clock.now() <= 18


def test_without_a_good_mirror_the_run_serves(tmp_path: Path) -> None:
    world = World(tmp_path, {A: nobody, B: Serves(lying), RUN: Serves()})
    world.fetch()
    assert world.has_it()
    assert world.mirrors.to_ask() == []


def test_what_has_come_stays_and_the_next_mirror_sends_only_the_rest(tmp_path: Path) -> None:
    rest = Serves()
    world = World(tmp_path, {A: Serves(upto=70_000), B: rest, RUN: nobody})
    world.fetch()
    assert rest.asked == ["bytes=70000-"]
    assert world.received == len(DATA)


def test_a_liar_that_breaks_off_is_found_out_and_who_went_on_is_not_blamed(tmp_path: Path) -> None:
    world = World(tmp_path, {A: Serves(lying, upto=70_000), B: Serves(), RUN: Serves()})
    world.fetch()
    assert world.has_it()
    assert world.mirrors.to_ask() == [B]
    world.clock.advance(timedelta(hours=12).total_seconds())
    assert world.mirrors.to_ask() == [B]  # it was blamed for its bytes, not only for breaking off


def test_a_liar_that_goes_on_with_honest_bytes_is_blamed_alone(tmp_path: Path) -> None:
    def from_the_middle(data: bytes) -> bytes:
        return data[:100_000] + b"x" + data[100_001:]

    world = World(tmp_path, {A: Serves(upto=70_000), B: Serves(from_the_middle), RUN: Serves()})
    world.fetch()
    assert world.has_it()
    world.clock.advance(timedelta(hours=12).total_seconds())
    assert world.mirrors.to_ask() == [A]


def test_one_that_failed_is_asked_again_later_each_time_later(tmp_path: Path) -> None:
    world = World(tmp_path, {A: nobody, B: Serves(), RUN: nobody})
    waits = []
    for _ in range(3):
        world.mirrors.failed(A, "a test")
        before = world.clock.now()
        while world.mirrors.rests(A):
            world.clock.advance(60)
        waits.append(world.clock.now() - before)
    assert waits == [300, 600, 1200]
    world.mirrors.served(A)
    world.mirrors.failed(A, "a test")
    world.clock.advance(300)
    assert not world.mirrors.rests(A)


def test_workers_spread_over_the_mirrors() -> None:
    first = [Mirrors((A, B, C), RUN, ManualClock(), random.Random(seed)).to_ask()[0] for seed in range(300)]
    assert all(70 < first.count(base) < 130 for base in (A, B, C))


def test_the_run_may_lead_on_to_a_store_once(tmp_path: Path) -> None:
    signed = f"https://store.example/bucket/{BLOB.sha256}?X-Amz-Signature=secret"
    store = Serves()
    world = World(tmp_path, {RUN: leads_to(signed), "https://store.example": store}, listed=())
    world.fetch()
    assert world.has_it()
    assert world.requests == [f"{RUN}/blobs/{BLOB.sha256}", signed]


@pytest.mark.parametrize(
    "target",
    [
        "http://store.example/x",
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://10.1.2.3/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://intranet/x",
        "https://0x7f.1/x",
        "https://user:pass@store.example/x",
        "file:///etc/passwd",
        "gopher://store.example/x",
        f"{RUN}:99999/x",
    ],
)
def test_where_a_run_must_not_lead_is_not_asked_and_the_run_serves_itself(tmp_path: Path, target: str) -> None:
    def run(request: httpx2.Request) -> httpx2.Response:
        return Serves()(request) if request.url.query == b"from=here" else leads_to(target)(request)

    world = World(tmp_path, {RUN: run}, listed=())
    world.fetch()
    assert world.has_it()
    assert {httpx2.URL(url).host for url in world.requests} == {"run.example"}
    assert world.mirrors.rests(STORE)


@pytest.mark.parametrize("store", [nobody, Serves(lying), Serves(upto=70_000), answers(403), leads_to(A)])
def test_a_store_that_fails_is_left_and_the_run_serves_itself(tmp_path: Path, store: Server) -> None:
    def run(request: httpx2.Request) -> httpx2.Response:
        return Serves()(request) if request.url.query == b"from=here" else leads_to("https://store.example/x")(request)

    world = World(tmp_path, {RUN: run, "https://store.example": store, A: Serves()}, listed=())
    world.fetch()
    assert world.has_it()
    requests = len(world.requests)
    world.fetch_again()
    assert world.requests[requests:] == [f"{RUN}/blobs/{BLOB.sha256}?from=here"]


def test_a_run_that_leads_on_for_ever_is_told_from_one_that_serves(tmp_path: Path) -> None:
    world = World(tmp_path, {RUN: leads_to("https://store.example/x"), "https://store.example": nobody}, listed=())
    with pytest.raises(Unreachable, match="tell the run's operator"):
        world.fetch()


def test_a_cap_of_the_volunteer_counts_for_mirrors_too(tmp_path: Path) -> None:
    class Full:
        def passes(self, num_bytes: int) -> None:
            raise AssertionError(num_bytes)

        @contextmanager
        def transfer(self, num_bytes: int) -> Iterator[None]:
            raise LeaseLost(f"no {num_bytes} more in this month", "monthly_cap")
            yield

    world = World(tmp_path, {A: Serves(), RUN: Serves()}, listed=(A,))
    blobs = BlobFetcher(
        pacer=Pacer(float("inf"), world.clock, lambda _: None, Full()),
        address=RunAddress.parse(RUN),
        http=httpx2.Client(transport=httpx2.MockTransport(Serves())),
        cache=world.cache,
        patience=Patience(Backoff(1, 300), fail_instead_of_waiting),
        mirrors=world.mirrors,
    )
    with pytest.raises(LeaseLost, match="this month"):
        blobs.fetch(BLOB, NEVER)
    assert world.mirrors.to_ask() == [A]


def test_mirrors_are_https_or_of_this_machine_if_the_run_is() -> None:
    assert may_ask("https://m.example/some", "https://run.example")
    assert not may_ask("http://m.example", "https://run.example")
    assert not may_ask("http://m.example", "http://127.0.0.1:8400")
    assert may_ask("http://127.0.0.1:9000", "http://127.0.0.1:8400")
    assert not may_ask("http://127.0.0.1:9000", "https://run.example")
    assert may_ask("https://192.168.1.4:9000", "https://192.168.1.2:8400")
    assert not may_ask("https://m.example/#there", "https://run.example")
    assert not may_ask("", "https://run.example")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("::ffff:10.0.0.1", False),
        ("2002:0a00:0001::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("224.0.0.1", False),
        ("no address", False),
    ],
)
def test_public_addresses_are_those_that_everybody_reaches(address: str, public: bool) -> None:
    assert is_public(address) is public
