"""One blob on its way into a mirror, for all who ask for it meanwhile: it is fetched once, and each reads along.

The last bytes are held back until all of it was compared with its name, so nobody gets a whole blob here that is a wrong one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

from coordinator.mirroring.cache import MirrorCache
from coordinator.mirroring.upstream import Upstream
from diffusion_at_home import events
from diffusion_at_home.errors import Unreachable

_HELD_BACK_BYTES: Final = 1 << 16
PIECE_BYTES: Final = 1 << 18

_log = events.logger("mirror")


class Fetch:
    """See the module. `run` ends when the blob is here, or will not be."""

    def __init__(self, sha256: str, upstream: Upstream, cache: MirrorCache) -> None:
        self._sha256 = sha256
        self._upstream = upstream
        self._cache = cache
        self._received = 0
        self._digest = hashlib.sha256()
        self._changed = asyncio.Event()
        self._is_over = False
        self.size: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Of the whole blob; or why it does not come."""
        self.is_sound = False

    @property
    def part(self) -> Path:
        """Where it is meanwhile."""
        return self._cache.part(self._sha256)

    @property
    def received_bytes(self) -> int:
        """So far."""
        return self._received

    async def run(self) -> None:
        """Fetch it; what broke off goes on once, from the run itself. What went wrong early is in `size`."""
        try:
            for last in (False, True):
                try:
                    await self._receive()
                    if self.is_sound:
                        return
                    raise Unreachable("what came has another sha256")
                except Unreachable as error:
                    _log.warning("fetch_failed", sha256=self._sha256, error=str(error), received=self._received)
                    self._upstream.ask_the_run_itself()
                    if last or (self.size.done() and self._is_complete()):
                        raise
        except asyncio.CancelledError:
            self._fail(Unreachable("the mirror stops"))
            raise
        except Exception as error:  # noqa: BLE001 -- told to all who wait
            self._fail(error)
        finally:
            self._is_over = True
            self._cache.comes_no_more(self._sha256)
            self._tell()

    async def pieces(self, file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`, as they come. Raises `Unreachable` if they come no more."""
        at = start
        while at < end:
            upto = min(end, self._readable())
            if upto <= at:
                if self._is_over and not self.is_sound:
                    raise Unreachable("it comes no more")
                await self._changed.wait()
                continue
            data = await asyncio.to_thread(_read, file, at, min(upto - at, PIECE_BYTES))
            at += len(data)
            yield data

    def _readable(self) -> int:
        size = self.size.result()
        return size if self.is_sound else min(self._received, size - min(size, _HELD_BACK_BYTES))

    def _is_complete(self) -> bool:
        return self.size.exception() is None and self._received >= self.size.result()

    async def _receive(self) -> None:
        async with self._upstream.blob(self._sha256, self._received) as (size, data):
            if not self.size.done():
                self._cache.expect(self._sha256, size)
                self.size.set_result(size)
            elif size != self.size.result():
                raise Unreachable("its size has changed meanwhile")
            with self.part.open("ab" if self._received else "wb") as file:
                async for piece in data:
                    if self._received + len(piece) > size:
                        raise Unreachable("more came than was announced")
                    await asyncio.to_thread(file.write, piece)
                    await asyncio.to_thread(file.flush)
                    self._digest.update(piece)
                    self._received += len(piece)
                    self._tell()
        if self._received < size:
            raise Unreachable("it ended early")
        if self._digest.hexdigest() == self._sha256:
            await asyncio.to_thread(self._cache.has_come, self._sha256)
            self.is_sound = True
            self._tell()

    def _fail(self, error: BaseException) -> None:
        if not self.size.done():
            self.size.set_exception(error)
            self.size.exception()  # it is read by whoever waits; nobody may

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _read(file: BinaryIO, at: int, num_bytes: int) -> bytes:
    file.seek(at)
    data = file.read(num_bytes)
    if not data:
        raise Unreachable("the file is shorter than it was")
    return data
