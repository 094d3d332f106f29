"""A home line in user space: every connection through it shares one rate up and one down, and all bytes come late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread

_PIECE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Line:
    """What a volunteer has."""

    up_bits_per_second: float
    down_bits_per_second: float
    delay_seconds: float
    """One way."""


class _Direction:
    """Bytes leave one after another at the line's rate, whatever connection they are of."""

    def __init__(self, bits_per_second: float, delay_seconds: float) -> None:
        self._bytes_per_second = bits_per_second / 8
        self._delay_seconds = delay_seconds
        self._free_at = 0.0
        self.bytes = 0

    def hold(self, seconds: float) -> None:
        """Let nothing leave for that long."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + seconds

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the sender ends."""
        arrivals: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        sending = asyncio.create_task(self._deliver(arrivals, writer))
        loop = asyncio.get_running_loop()
        try:
            while piece := await reader.read(_PIECE_BYTES):
                self.bytes += len(piece)
                self._free_at = max(self._free_at, loop.time()) + len(piece) / self._bytes_per_second
                await arrivals.put((self._free_at + self._delay_seconds, piece))
                if self._free_at > loop.time():
                    await asyncio.sleep(self._free_at - loop.time())
        except ConnectionError:
            pass
        await arrivals.put((0.0, b""))
        await sending

    async def _deliver(self, arrivals: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                at, piece = await arrivals.get()
                if not piece:
                    break
                if at > loop.time():
                    await asyncio.sleep(at - loop.time())
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


class Link:
    """The line of one volunteer, whose host it is: `ports` of 127.0.0.1, reached at the same ports of another address."""

    def __init__(self, line: Line, host: str, ports: list[int]) -> None:
        self._host = host
        self._ports = ports
        self._up = _Direction(line.up_bits_per_second, line.delay_seconds)
        self._down = _Direction(line.down_bits_per_second, line.delay_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def bytes(self) -> tuple[int, int]:
        """Up and down so far."""
        return self._up.bytes, self._down.bytes

    async def open(self) -> None:
        """Listen."""
        self._loop = asyncio.get_running_loop()
        for port in self._ports:
            await asyncio.start_server(partial(self._connect, port), self._host, port)

    def cut(self) -> None:
        """Reset every connection; from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._abort)

    def silence(self, seconds: float) -> None:
        """Carry nothing for a while; connections stay open. From any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._fall_silent, seconds)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _fall_silent(self, seconds: float) -> None:
        self._up.hold(seconds)
        self._down.hold(seconds)

    async def _connect(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # the far side is down
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            with suppress(asyncio.CancelledError):  # the lines are cut at the end
                await asyncio.gather(self._up.pump(reader, far_writer), self._down.pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}


@contextmanager
def opened(links: list[Link]) -> Iterator[None]:
    """Within, the links carry."""
    loop = asyncio.new_event_loop()
    ready = Event()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        for link in links:
            loop.run_until_complete(link.open())
        ready.set()
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    thread = Thread(target=serve, name="lines", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
