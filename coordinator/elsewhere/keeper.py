"""Keeps in the bucket what the run's public files are: writes what is missing, deletes what is gone here, and leads others there.

The run's own folder is the truth, and the bucket follows. A version is announced once its bytes are there, but never waits for
long: a store that does not answer costs the coordinator its line, not the run its rounds. Whoever dies anywhere leaves a bucket
that lacks something or has too much; the next start lists it and makes it even.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from coordinator.blobs import file_sha256
from coordinator.elsewhere.bucket import URL_HOLDS, Bucket
from coordinator.elsewhere.public_files import PublicFiles
from coordinator.exporter import give_way
from coordinator.metrics import Metrics
from coordinator.problems import BUCKET
from diffusion_at_home import events
from diffusion_at_home.errors import Unreachable

_LOOK_SECONDS: Final = 5.0
"""Between two looks at the run's own folder."""

_LIST_SECONDS: Final = 3600.0
"""Between two lists of the bucket: others may have deleted something there."""

_RETRY_SECONDS: Final = 15.0
"""After the store did not answer."""

_ANNOUNCED_WITHIN: Final = timedelta(seconds=30)
"""What is announced may take so long to get there; then it is served from here."""

_NUM_WRITERS: Final = 4
_REUSED: Final = URL_HOLDS / 4
"""A signed URL is given to everybody who asks for the same file within that."""

T = TypeVar("T")
_log = events.logger("coordinator")


class Nowhere:
    """A run whose bytes are nowhere else."""

    async def run(self) -> None:
        """Nothing, for ever."""
        await asyncio.Event().wait()

    async def announce(self, names: Sequence[str]) -> None:
        """Nothing is waited for."""

    async def leads_to(self, sha256: str) -> str:  # noqa: ARG002 -- see `Keeper`
        """Nowhere."""
        return ""

    def close(self) -> None:
        """Nothing is open."""


class Keeper:
    """See the module. On the coordinator's loop; the store is waited for in threads."""

    def __init__(
        self,
        *,
        bucket: Bucket,
        leads_on: bool,
        look: Callable[[], PublicFiles],
        blobs: Path,
        metrics: Metrics,
        stays_here: str = "",
    ) -> None:
        """`look` blocks; `blobs` is where what is announced lies; nobody is led on from the file `stays_here`."""
        self._stays_here = stays_here
        self._bucket = bucket
        self._leads_on = leads_on
        self._look = look
        self._blobs = blobs
        self._metrics = metrics
        self._problems = metrics.problems
        self._there: set[str] = set()
        self._listed_at = -_LIST_SECONDS
        self._has_listed = False
        self._is_down = False
        self._urls: dict[str, tuple[float, str]] = {}
        self._writers = ThreadPoolExecutor(_NUM_WRITERS, "bucket", initializer=give_way)
        self._first = ThreadPoolExecutor(2, "announce")
        """For what does not wait behind a whole data set."""
        metrics.bucket_files.set_function(lambda: len(self._there))

    async def run(self) -> None:
        """Make it even again and again, for ever."""
        while True:
            try:
                await self.make_even()
            except Unreachable as error:
                self._down(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._is_down = False
                self._problems.clear(BUCKET)
                await asyncio.sleep(_LOOK_SECONDS)

    async def make_even(self) -> None:
        """Write what is missing, then delete what is too much. Raises `Unreachable`."""
        files = await self._in_thread(self._look)
        if time.monotonic() - self._listed_at >= _LIST_SECONDS:
            await self._list(files)
        missing = [name for name in files.wanted if name not in self._there]
        for start in range(0, len(missing), _NUM_WRITERS):
            names = missing[start : start + _NUM_WRITERS]
            await _all(self._put(self._writers, name, files.wanted[name]) for name in names)
        for name in self._there - files.kept:
            self._forget(name)  # before it is gone: nobody is led to what is not there
            await self._in_thread(lambda name=name: self._bucket.delete(name))  # type: ignore[misc]
            _log.info("bucket_deleted", sha256=name)

    async def announce(self, names: Sequence[str]) -> None:
        """Have the blobs `names` there before everybody wants them; if that does not work soon, go on without."""
        missing = [name for name in names if name and name not in self._there]
        if not missing or self._is_down or not self._has_listed:
            return
        try:
            async with asyncio.timeout(_ANNOUNCED_WITHIN.total_seconds()):
                await _all(self._put(self._first, name, self._blobs / name) for name in missing)
        except Unreachable as error:
            self._down(error)
        except TimeoutError:
            self._down(Unreachable(f"{self._bucket.url} takes longer than {_ANNOUNCED_WITHIN.total_seconds():.0f} s"))

    async def leads_to(self, sha256: str) -> str:
        """A URL from which anybody may have that file; empty if it has to come from here."""
        if not self._leads_on or sha256 == self._stays_here or sha256 not in self._there or self._is_down:
            return ""
        made_at, url = self._urls.get(sha256, (0.0, ""))
        if not url or time.monotonic() - made_at > _REUSED.total_seconds():
            try:
                url = await asyncio.get_running_loop().run_in_executor(self._first, self._bucket.signed_url, sha256)
            except Unreachable as error:
                self._down(error)
                return ""
            self._urls[sha256] = (time.monotonic(), url)
        self._metrics.redirects.inc()
        return url

    def close(self) -> None:
        """Let what was begun go on to its end; what was not is done after the next start."""
        self._bucket.close()
        self._writers.shutdown(wait=True, cancel_futures=True)
        self._first.shutdown(wait=True, cancel_futures=True)

    # -- inside -------------------------------------------------------------------------------------------------

    async def _list(self, files: PublicFiles) -> None:
        found = await self._in_thread(self._bucket.sizes)
        whole = await self._in_thread(lambda: {n for n, size in found.items() if _fits(files.wanted.get(n), size)})
        lacking = self._there - whole
        if lacking:
            _log.warning("bucket_lacked", files=len(lacking), example=min(lacking))
        self._there = whole
        self._listed_at, self._has_listed = time.monotonic(), True
        _log.info("bucket_listed", url=self._bucket.url, files=len(whole), missing=len(files.wanted.keys() - whole))

    async def _put(self, threads: ThreadPoolExecutor, name: str, path: Path) -> None:
        size_bytes = await asyncio.get_running_loop().run_in_executor(threads, self._put_sound, name, path)
        if size_bytes is not None:
            self._there.add(name)
            self._metrics.bucket_written.inc(size_bytes)

    def _put_sound(self, name: str, path: Path) -> int | None:
        """Write it, unless it is gone or damaged here, which others find; its size if it was written."""
        try:
            if file_sha256(path) != name:
                return None
            self._bucket.put(name, path)
            return path.stat().st_size
        except OSError:
            return None

    def _forget(self, name: str) -> None:
        self._there.discard(name)
        self._urls.pop(name, None)

    def _down(self, error: Unreachable) -> None:
        self._is_down = True
        self._problems.set(BUCKET, f"{error}; the run goes on, and its bytes come from this coordinator")

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._writers, work)


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Until each has ended; then raise what the first of those that failed has raised."""
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _fits(path: Path | None, size_bytes: int) -> bool:
    """Whether an object is as long as the file here; what is not here is not judged."""
    try:
        return path is None or path.stat().st_size == size_bytes
    except OSError:
        return True
