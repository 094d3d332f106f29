"""Immutable files named by their sha256: kept on disk within a quota, fetched over HTTP, never used unverified.

A download resumes where it broke off, stops at the size known beforehand, and counts only if its digest is right. A
cached file is hashed whenever it is opened, so one that went bad on disk is fetched again. Files in use stay. What a worker made
from a blob may lie beside it, and is evicted with it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

import httpx2

from diffusion_at_home.clock import Clock, SystemClock
from diffusion_at_home.errors import Busy, LeaseLost, RetryCall, StorageError, Unreachable, storage_errors
from worker.http_line import limits
from worker.pacer import Pacer
from worker.patience import Patience
from worker.run_address import HTTP_BUSY, retry_after
from worker.stop import Interrupted

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_WRONG: Final = 3
"""Downloads with a wrong digest before we give up: more than one broken cache on the way is unlikely."""

_HEADERS: Final = timedelta(seconds=30)
"""Until the first byte of a body."""

_SLOWEST_BYTES_PER_SECOND: Final = 1_000
_SLOW: Final = timedelta(seconds=60)
"""A body that is slower than that for so long is taken for one that will never end; what has come stays."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob's name and size, both known before a byte of it is asked for."""

    sha256: str
    size_bytes: int

    @staticmethod
    def is_sound(sha256: str, size_bytes: int, most_bytes: int) -> bool:
        """Whether these may name a file: hex digits, and not more than `most_bytes`."""
        return _SHA256.fullmatch(sha256) is not None and 0 < size_bytes <= most_bytes


class BlobPlace(Protocol):
    """Where blobs are served."""

    @property
    def url(self) -> str:
        """The address, for people."""

    def blob_url(self, sha256: str) -> str:
        """Of one blob."""


def _nobody() -> RetryCall | None:
    return None


class BlobCache:
    """Verified files in a folder of their own, within `quota_bytes`: the longest unused are evicted. One process."""

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob is, or would be."""
        return self._folder / sha256

    def part(self, sha256: str) -> Path:
        """Where its unfinished download is."""
        return self._folder / f"{sha256}.part"

    def beside(self, sha256: str, name: str) -> Path:
        """Where a file that was made from a blob is, or would be; whoever writes it makes room first."""
        return self._folder / f"{sha256}.{name}"

    @contextmanager
    def pinned(self, sha256: str) -> Iterator[None]:
        """Within, this blob is not evicted."""
        with self._lock:
            self._pins[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._pins[sha256] -= 1

    def holds(self, blob: BlobRef) -> bool:
        """Whether a sound copy is here; a bad one is deleted."""
        path = self.path(blob.sha256)
        if not path.exists():
            return False
        if path.stat().st_size == blob.size_bytes and _file_sha256(path) == blob.sha256:
            os.utime(path)
            return True
        with self._lock:
            path.unlink(missing_ok=True)
        return False

    def admit(self, blob: BlobRef) -> bool:
        """Make the finished download the cached copy if it is sound; delete it if not."""
        part = self.part(blob.sha256)
        sound = part.stat().st_size == blob.size_bytes and _file_sha256(part) == blob.sha256
        with self._lock:
            if sound:
                part.replace(self.path(blob.sha256))
            else:
                part.unlink()
        return sound

    def make_room(self, blob: BlobRef) -> None:
        """Evict until `blob` fits. Raises `StorageError` if what is in use leaves too little."""
        with self._lock:
            together: dict[str, list[Path]] = {}  # a blob, its download, and what was made from it
            for path in (p for p in self._folder.iterdir() if p.is_file()):
                together.setdefault(path.name.partition(".")[0], []).append(path)
            used = sum(p.stat().st_size for paths in together.values() for p in paths if p != self.part(blob.sha256))
            for name in sorted(together, key=lambda name: max(p.stat().st_mtime_ns for p in together[name])):
                if used + blob.size_bytes <= self._quota_bytes:
                    return
                if self._pins[name] == 0:
                    for path in together[name]:
                        used -= path.stat().st_size
                        path.unlink(missing_ok=True)
        if used + blob.size_bytes > self._quota_bytes:
            raise StorageError(
                f"{self._folder} has no room for {blob.size_bytes} bytes within its quota of {self._quota_bytes}: "
                "raise cache_gib"
            )


class BlobFetcher:
    """Blobs of one run, from the cache or the network; may be used from any thread."""

    def __init__(
        self,
        *,
        address: BlobPlace,
        http: httpx2.Client,
        cache: BlobCache,
        patience: Patience,
        pacer: Pacer,
        on_bytes: Callable[[int], None] = lambda _: None,
        on_failure: Callable[[], RetryCall | None] = _nobody,
    ) -> None:
        """`pacer` limits what arrives; `on_bytes` is told of every piece.

        `on_failure` is told when a download fails, and may know a better reason.
        """
        self._on_failure = on_failure
        self._pacer = pacer
        self._address = address
        self._http = http
        self._cache = cache
        self._patience = patience
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._under_way: set[str] = set()

    @contextmanager
    def have(self, blob: BlobRef, interrupt: threading.Event) -> Iterator[Path]:
        """The blob's verified file, which stays meanwhile; waits for a network that is down.

        Raises `Interrupted`, `StorageError`, and `LeaseLost` if it is no longer served or wrong again and again.
        """
        with self._cache.pinned(blob.sha256):
            self._patience.call(lambda: self.fetch(blob, interrupt), interrupt)
            yield self._cache.path(blob.sha256)

    @contextmanager
    def open(self, blob: BlobRef, interrupt: threading.Event) -> Iterator[memoryview]:
        """Its bytes, mapped; raises as `have`."""
        with self.have(blob, interrupt) as path, path.open("rb") as file:
            # Unmapped with its last view: a decoder's traceback may hold one longer than this block.
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    @property
    def cache(self) -> BlobCache:
        """Where they are kept."""
        return self._cache

    def cached(self, blob: BlobRef) -> bool:
        """Whether a copy is here, sound or not: a cheap question."""
        return self._cache.path(blob.sha256).exists()

    def fetch(self, blob: BlobRef, interrupt: threading.Event) -> None:
        """Have the blob in the cache. One try: raises as `have` does, and `RetryCall`."""
        with self._exclusively(blob.sha256, interrupt):
            if not self._cache.holds(blob):
                self._download(blob, interrupt)

    def _download(self, blob: BlobRef, interrupt: threading.Event) -> None:
        self._cache.make_room(blob)
        part = self._cache.part(blob.sha256)
        with storage_errors(part.parent), self._cache.pinned(blob.sha256):
            for _ in range(_MAX_WRONG):
                self._try_to_receive(blob, part, interrupt)
                if self._cache.admit(blob):
                    return
        url = self._address.blob_url(blob.sha256)
        raise LeaseLost(
            f"{url} was wrong {_MAX_WRONG} times: if that stays so, tell the operator of the run", "wrong_blob"
        )

    def _try_to_receive(self, blob: BlobRef, part: Path, interrupt: threading.Event) -> None:
        try:
            self._receive(blob, part, interrupt)
        except Busy:
            raise
        except RetryCall as failure:
            raise self._on_failure() or failure from None

    def _receive(self, blob: BlobRef, part: Path, interrupt: threading.Event) -> None:
        """Append what is missing to `part`, one byte too many at most as the sign of a wrong size."""
        have = part.stat().st_size if part.exists() else 0
        if have >= blob.size_bytes:
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        url = self._address.blob_url(blob.sha256)
        with self._broken_off(), limits(interrupt=interrupt), ExitStack() as opened:
            opened.enter_context(self._pacer.transfer(blob.size_bytes - have))
            with limits(within=_HEADERS):
                response = opened.enter_context(self._http.stream("GET", url, headers=headers))
            if response.status_code == 416:  # what we have is more than there is
                part.write_bytes(b"")
                return
            resumed = _resumes_at(response, have)
            floor = _Floor(SystemClock())
            with part.open("ab" if resumed else "wb") as file:
                left = blob.size_bytes - (have if resumed else 0)
                for data in response.iter_raw(self._pacer.piece_bytes):  # as it comes, if nothing is limited
                    self._on_bytes(len(data))
                    self._pacer.passes(len(data))
                    file.write(data[: left + 1])
                    left -= len(data)
                    if left < 0:
                        return
                    floor.passes(len(data))
                    if interrupt.is_set():
                        raise Interrupted
        if left > 0:
            raise Unreachable(f"the download from {self._address.url} ended early")

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise Unreachable(f"the download from {self._address.url} broke off ({type(error).__name__})") from None

    @contextmanager
    def _exclusively(self, sha256: str, interrupt: threading.Event) -> Iterator[None]:
        """One thread a blob; the others wait for it."""
        while not self._begin(sha256):
            if interrupt.wait(0.1):
                raise Interrupted
        try:
            yield
        finally:
            with self._lock:
                self._under_way.remove(sha256)

    def _begin(self, sha256: str) -> bool:
        with self._lock:
            if sha256 in self._under_way:
                return False
            self._under_way.add(sha256)
            return True


class _Floor:
    """Takes a body that only drips for a dead one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_at = clock.now()
        self._num_bytes = 0

    def passes(self, num_bytes: int) -> None:
        """So much has come. Raises `Unreachable`."""
        self._num_bytes += num_bytes
        seconds = self._clock.now() - self._begun_at
        if seconds < _SLOW.total_seconds():
            return
        if self._num_bytes < _SLOWEST_BYTES_PER_SECOND * seconds:
            raise Unreachable(
                f"a download only drips ({self._num_bytes / seconds:.0f} bytes a second): connecting anew"
            )
        self._begun_at, self._num_bytes = self._clock.now(), 0


def _resumes_at(response: httpx2.Response, have: int) -> bool:
    """Whether the body continues after `have` bytes rather than starting anew; raises if there is no body."""
    status = response.status_code
    if status == 206 and have and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return True
    if status == 200:
        return False
    if status in {404, 410}:
        raise LeaseLost(f"{response.url} is no longer served", "blob_gone")
    if status in HTTP_BUSY:
        raise Busy(f"{response.url.host} is busy", retry_after(response.headers))
    raise RetryCall(f"{response.url} answers with HTTP {status}")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
