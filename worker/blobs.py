"""Immutable files named by their sha256: kept on disk within a quota, fetched over HTTP, never used unverified.

They come from a mirror, from where the run leads on to, or from the run itself, which is asked last. A download resumes where
it broke off, also elsewhere, stops at the size known beforehand, and counts only if its digest is right. A cached file is
hashed whenever it is opened, so one that went bad on disk is fetched again. Files in use stay. What a worker made from a blob
may lie beside it, and is evicted with it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import httpx2

from diffusion_at_home.errors import Busy, LeaseLost, RetryCall, StorageError, Unreachable, storage_errors
from diffusion_at_home.strangers import FROM_HERE, is_private_place, may_ask
from worker.mirrors import STORE, Mirrors, Origins, host_of
from worker.pacer import Pacer
from worker.patience import Patience
from worker.receiving import GONE, Place, Receiver, Try
from worker.stop import Interrupted

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_WRONG: Final = 3
"""Downloads with a wrong digest before we give up: more than one broken cache on the way is unlikely."""


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
    """Where the run serves its blobs."""

    @property
    def url(self) -> str:
        """The address, for people."""

    def blob_url(self, sha256: str) -> str:
        """Of one blob."""

    def failed(self) -> RetryCall | None:
        """A download from there has failed; returns a better reason than its own, if there is one."""


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
        mirrors: Mirrors | None = None,
    ) -> None:
        """`pacer` limits what arrives; `on_bytes` is told of every piece; `mirrors` are asked before the run."""
        self._mirrors = mirrors or Mirrors()
        self._receiver = Receiver(http=http, pacer=pacer, clock=self._mirrors.clock, on_bytes=on_bytes)
        self._address = address
        self._cache = cache
        self._patience = patience
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
        one = _Download(blob, self._cache.part(blob.sha256), Origins(), interrupt)
        with storage_errors(one.part.parent), self._cache.pinned(blob.sha256):
            if self._from_a_mirror(one) or self._from_the_run(one):
                for liar in one.origins.liars(self._cache.path(blob.sha256)):
                    self._mirrors.lied(liar)
                return
        url = self._address.blob_url(blob.sha256)
        raise LeaseLost(
            f"{url} was wrong {_MAX_WRONG} times: if that stays so, tell the operator of the run", "wrong_blob"
        )

    def _from_a_mirror(self, one: _Download) -> bool:
        """Ask each mirror that may have it, once; whether the blob is there."""
        strangers_are_public = not is_private_place(self._address.url)
        for base in self._mirrors.to_ask():
            url = f"{base}/blobs/{one.blob.sha256}"
            if self._from_a_stranger(one, Place(url, base, is_run=False, public_only=strangers_are_public)):
                return True
        return False

    def _from_the_run(self, one: _Download) -> bool:
        """Ask it, and where it leads on to; whether the blob is there."""
        for _ in range(_MAX_WRONG):
            if self._follow_the_run(one) or self._cache.admit(one.blob):
                return True
            one.origins.wrong()
        return False

    def _follow_the_run(self, one: _Download) -> bool:
        """Have all of it, right or wrong, from the run; or the right one, which is True, from where it leads on to."""
        url = self._address.blob_url(one.blob.sha256)
        if not self._mirrors.rests(STORE):
            leads_to = self._try_to_receive(one, url)
            if not leads_to:
                return False
            if not may_ask(leads_to, said_by=url):
                self._mirrors.failed(STORE, f"{host_of(leads_to)} is no place to be led to")
            else:
                public = not is_private_place(url)
                if self._from_a_stranger(one, Place(leads_to, STORE, is_run=False, public_only=public)):
                    return True
        if self._try_to_receive(one, f"{url}?{FROM_HERE}"):
            raise Unreachable(f"{self._address.url} leads on from where it was asked not to: tell the run's operator")
        return False

    def _from_a_stranger(self, one: _Download, place: Place) -> bool:
        """One try; whoever fails is left. Whether the blob is there."""
        try:
            if self._receiver.receive(one.at(place)):
                self._mirrors.failed(place.name, "it leads on to others")
                return False
        except Busy as busy:
            self._mirrors.failed(place.name, str(busy), busy.retry_after)
            return False
        except RetryCall as failure:
            self._mirrors.failed(place.name, str(failure))
            return False
        except LeaseLost as lost:
            if lost.reason != GONE:
                raise
            self._mirrors.lacks(place.name)
            return False
        if self._cache.admit(one.blob):
            self._mirrors.served(place.name)
            return True
        liar = one.origins.wrong()
        if liar is not None:
            self._mirrors.lied(liar)
        return False

    def _try_to_receive(self, one: _Download, url: str) -> str:
        try:
            return self._receiver.receive(one.at(Place(url, self._address.url, is_run=True)))
        except Busy:
            raise
        except RetryCall as failure:
            raise self._address.failed() or failure from None

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


@dataclass(frozen=True, slots=True)
class _Download:
    """One that is under way."""

    blob: BlobRef
    part: Path
    origins: Origins
    interrupt: threading.Event

    def at(self, place: Place) -> Try:
        """What is asked there."""
        return Try(place, self.part, self.blob.size_bytes, self.origins, self.interrupt)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
