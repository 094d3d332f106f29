import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from diffusion_at_home.clock import ManualClock
from diffusion_at_home.errors import LeaseLost, RetryCall, StorageError, Unreachable
from tests.unit.tiny_run import no_limit
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.patience import Patience
from worker.receiving import RUN_PACE, Floor
from worker.run_address import RunAddress
from worker.stop import Interrupted

DATA = bytes(range(256)) * 1000
BLOB = BlobRef(hashlib.sha256(DATA).hexdigest(), len(DATA))
NEVER = threading.Event()


@contextmanager
def fail_instead_of_waiting(why: RetryCall) -> Iterator[None]:
    raise AssertionError(f"waited: {why}")
    yield


class Mirror:
    """Serves blobs with ranges; every body goes through `distort` first, as a bad line would do it."""

    def __init__(self, *blobs: bytes, distort: Callable[[bytes], bytes] = lambda body: body) -> None:
        self._blobs = {hashlib.sha256(data).hexdigest(): data for data in blobs}
        self._distort = distort
        self.ranges: list[str | None] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        data = self._blobs.get(request.url.path.removeprefix("/blobs/"))
        if data is None:
            return httpx2.Response(404)
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = self._distort(data[start:])
        if not start:
            return httpx2.Response(200, stream=Body(body))
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return httpx2.Response(206, headers=headers, stream=Body(body))


class Body(httpx2.SyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), 10_000):
            yield self._data[start : start + 10_000]


def fetcher(mirror: Mirror, cache: BlobCache) -> BlobFetcher:
    return BlobFetcher(
        pacer=no_limit(),
        address=RunAddress.parse("https://run.example"),
        http=httpx2.Client(transport=httpx2.MockTransport(mirror)),
        cache=cache,
        patience=Patience(Backoff(1, 300), fail_instead_of_waiting),
    )


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "blobs", 3 * len(DATA))


def test_a_blob_is_fetched_once_and_then_cached(cache: BlobCache) -> None:
    mirror = Mirror(DATA)
    for _ in range(2):
        with fetcher(mirror, cache).open(BLOB, NEVER) as view:
            assert view == DATA
    assert mirror.ranges == [None]


def test_a_cut_download_resumes_at_the_byte_where_it_ended(cache: BlobCache) -> None:
    with pytest.raises(RetryCall):
        fetcher(Mirror(DATA, distort=lambda body: body[:70_000]), cache).fetch(BLOB, NEVER)
    mirror = Mirror(DATA)
    with fetcher(mirror, cache).open(BLOB, NEVER) as view:
        assert view == DATA
    assert mirror.ranges == ["bytes=70000-"]


@pytest.mark.parametrize("wrong", [DATA[:-1] + b"x", DATA + b"x"], ids=["flipped byte", "too long"])
def test_wrong_bytes_are_discarded_and_refused_after_three_tries(cache: BlobCache, wrong: bytes) -> None:
    mirror = Mirror(DATA, distort=lambda _: wrong)
    with pytest.raises(LeaseLost, match="wrong 3 times") as lost:
        fetcher(mirror, cache).fetch(BLOB, NEVER)
    assert lost.value.reason == "wrong_blob"
    assert mirror.ranges == [None, None, None]
    assert not cache.path(BLOB.sha256).exists()
    assert not cache.part(BLOB.sha256).exists()


def test_an_endless_body_is_left_at_the_announced_size(cache: BlobCache) -> None:
    received: list[int] = []
    mirror = Mirror(DATA, distort=lambda body: body * 50)
    blobs = BlobFetcher(
        pacer=no_limit(),
        address=RunAddress.parse("https://run.example"),
        http=httpx2.Client(transport=httpx2.MockTransport(mirror)),
        cache=cache,
        patience=Patience(Backoff(1, 300), fail_instead_of_waiting),
        on_bytes=received.append,
    )
    with pytest.raises(LeaseLost):
        blobs.fetch(BLOB, NEVER)
    assert sum(received) < 3 * 2 * len(DATA)


def test_a_cached_file_that_went_bad_is_fetched_again(cache: BlobCache) -> None:
    fetcher(Mirror(DATA), cache).fetch(BLOB, NEVER)
    cache.path(BLOB.sha256).write_bytes(b"y" + DATA[1:])
    with fetcher(Mirror(DATA), cache).open(BLOB, NEVER) as view:
        assert view == DATA


def test_a_blob_that_is_gone_loses_the_lease(cache: BlobCache) -> None:
    with pytest.raises(LeaseLost) as lost:
        fetcher(Mirror(), cache).fetch(BLOB, NEVER)
    assert lost.value.reason == "blob_gone"


def test_an_interrupt_keeps_what_has_arrived(cache: BlobCache) -> None:
    interrupt = threading.Event()
    interrupt.set()
    with pytest.raises(Interrupted):
        fetcher(Mirror(DATA), cache).fetch(BLOB, interrupt)
    assert 0 < cache.part(BLOB.sha256).stat().st_size < len(DATA)


def others(num: int) -> list[bytes]:
    return [hashlib.sha256(bytes([index])).digest() * (len(DATA) // 32) for index in range(num)]


def ref(data: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(data).hexdigest(), len(data))


def test_the_longest_unused_is_evicted_but_never_one_in_use(cache: BlobCache) -> None:
    *first, last = others(4)
    blobs = fetcher(Mirror(*first, last), cache)
    for age, data in enumerate(first):
        blobs.fetch(ref(data), NEVER)
        os.utime(cache.path(ref(data).sha256), (1000 + age, 1000 + age))
    with blobs.open(ref(first[0]), NEVER):
        os.utime(cache.path(ref(first[0]).sha256), (1, 1))
        blobs.fetch(ref(last), NEVER)
    held = [data for data in [*first, last] if cache.path(ref(data).sha256).exists()]
    assert held == [first[0], first[2], last]


def test_what_can_never_fit_is_refused_by_the_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="raise cache_gib"):
        fetcher(Mirror(DATA), BlobCache(tmp_path, len(DATA) - 1)).fetch(BLOB, NEVER)


def test_body_that_only_drips_is_left_and_one_that_is_slow_is_not() -> None:
    clock = ManualClock()
    floor = Floor(clock, RUN_PACE)
    for _ in range(5):
        clock.advance(60)
        floor.passes(60_000)
    clock.advance(59)
    floor.passes(1)
    clock.advance(1)
    with pytest.raises(Unreachable, match="only drips"):
        floor.passes(1)


class InAHotel(RunAddress):
    def failed(self) -> RetryCall:
        return Unreachable("a hotel wants a login")


def test_download_that_fails_has_the_reason_that_the_line_knows_better(cache: BlobCache) -> None:
    def nobody(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("nobody")

    blobs = BlobFetcher(
        pacer=no_limit(),
        address=InAHotel("https://run.example"),
        http=httpx2.Client(transport=httpx2.MockTransport(nobody)),
        cache=cache,
        patience=Patience(Backoff(1, 300), fail_instead_of_waiting),
    )
    with pytest.raises(Unreachable, match="a hotel wants a login"):
        blobs.fetch(BLOB, NEVER)
