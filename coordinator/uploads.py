"""Contributions on their way in: one growing file a lease in the staging folder, which survives restarts.

A stream may end at any byte and go on from there later; nothing larger than the size its header was checked for is ever
written. Only one stream has a lease's upload at a time, from its first chunk to the receipt. A stream has a place among so
many, and must come faster than a dead line: what trickles is cut, and may go on from its offset.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from coordinator.admission import Places
from coordinator.in_thread import in_thread
from coordinator.records import LeaseId
from coordinator.refused import Refused
from diffusion_at_home.errors import storage_errors
from diffusion_at_home.rpc.coordinator_pb2 import Refusal, SubmitHeader, SubmitRequest

MAX_CHUNK_BYTES: Final = 1 << 18
"""Largest chunk of a Submit: a stream of these saturates a line, and one in flight costs little memory."""

SLOWEST_BYTES_PER_SECOND: Final = 10_000
"""A slower line is taken for a dead one, on both sides; see `worker.sender`."""

LONGEST_SILENCE: Final = timedelta(minutes=1)
"""Lead that a stream has on that pace: a line may pause, and a place is never held for longer without bytes."""

_SOON: Final = timedelta(seconds=1)


class Uploads:
    """The staging folder's uploads."""

    def __init__(
        self, folder: Path, *, places: Places, disk: Executor, longest_silence: timedelta = LONGEST_SILENCE
    ) -> None:
        """`places` is how many streams there may be at once; `disk` has the threads that write."""
        self._folder = folder
        self._places = places
        self.disk = disk
        """The threads that write."""
        self._longest_silence = longest_silence.total_seconds()
        self._writing: set[LeaseId] = set()

    def received_bytes(self, lease_id: LeaseId, sha256: str) -> int:
        """How much of that contribution is here."""
        path = self._path(lease_id, sha256)
        return path.stat().st_size if path.is_file() else 0

    @asynccontextmanager
    async def receive(
        self, header: SubmitHeader, requests: AsyncIterator[SubmitRequest], max_chunk_bytes: int = MAX_CHUNK_BYTES
    ) -> AsyncIterator[Path]:
        """Write the stream's chunks; within, the file is whole and nobody else's. Raises `Refused`, `StorageError`.

        A disk that is slow to take them holds up this stream, and not the loop: others' heartbeats go on.
        """
        lease_id, path = LeaseId(header.lease_id), self._path(LeaseId(header.lease_id), header.sha256)
        with self._alone(lease_id):
            self.forget(lease_id, keep=path)
            received = self.received_bytes(lease_id, header.sha256)
            if received != header.offset:
                raise Refused(Refusal.REFUSAL_WRONG_OFFSET, f"offset = {header.offset}, but {received} bytes are here")
            async for request in self._in_time(requests):
                chunk = request.chunk
                if not 1 <= len(chunk) <= max_chunk_bytes:
                    raise Refused(Refusal.REFUSAL_MALFORMED, f"a chunk must have 1 to {max_chunk_bytes} bytes")
                if received + len(chunk) > header.size_bytes:
                    raise Refused(Refusal.REFUSAL_WRONG_SIZE, "more bytes than size_bytes announced")
                await in_thread(self.disk, _append, path, chunk)
                received += len(chunk)
            if received < header.size_bytes:
                raise Refused(Refusal.REFUSAL_WRONG_OFFSET, "the stream ended early: ask SubmitOffset and go on")
            yield path

    async def _in_time(self, requests: AsyncIterator[SubmitRequest]) -> AsyncIterator[SubmitRequest]:
        """What comes faster than a dead line."""
        loop, messages = asyncio.get_running_loop(), aiter(requests)
        deadline = loop.time() + self._longest_silence
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    request = await anext(messages)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Refused(
                    Refusal.REFUSAL_WRONG_OFFSET,
                    f"the stream is slower than {SLOWEST_BYTES_PER_SECOND} bytes/s: ask SubmitOffset and go on",
                ) from None
            deadline += len(request.chunk) / SLOWEST_BYTES_PER_SECOND
            yield request

    def forget(self, lease_id: LeaseId, keep: Path | None = None) -> None:
        """Delete what has come in for a lease, but for `keep`."""
        for path in self._folder.glob(f"upload-{lease_id}-*.part"):
            if path != keep:
                path.unlink(missing_ok=True)

    def forget_all_but(self, lease_ids: set[LeaseId]) -> tuple[int, int]:
        """Delete the uploads of leases that cannot count any more; returns how many stay, and how many went."""
        kept, found = lease_ids | self._writing, list(self._folder.glob("upload-*.part"))
        gone = [path for path in found if LeaseId(int(path.name.split("-")[1])) not in kept]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(found) - len(gone), len(gone)

    @contextmanager
    def _alone(self, lease_id: LeaseId) -> Iterator[None]:
        if lease_id in self._writing:
            raise Refused(Refusal.REFUSAL_BUSY, f"lease {lease_id} is being handed in by another stream", _SOON)
        with self._places.taken(f"{self._places.number} contributions are coming in at once"):
            self._writing.add(lease_id)
            try:
                yield
            finally:
                self._writing.discard(lease_id)

    def _path(self, lease_id: LeaseId, sha256: str) -> Path:
        return self._folder / f"upload-{lease_id}-{sha256}.part"


def _append(path: Path, chunk: bytes) -> None:
    with storage_errors(path), path.open("ab") as file:
        file.write(chunk)
