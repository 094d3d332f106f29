"""Contributions on their way in: one growing file a lease in the staging folder, which survives restarts.

A stream may end at any byte and go on from there later; nothing larger than the size its header was checked for is ever
written. Only one stream has a lease's upload at a time, from its first chunk to the receipt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from coordinator.records import LeaseId
from coordinator.refused import Refused
from diffusion_at_home.errors import storage_errors
from diffusion_at_home.rpc.coordinator_pb2 import Refusal, SubmitHeader, SubmitRequest

MAX_CHUNK_BYTES: Final = 1 << 18
"""Largest chunk of a Submit: a stream of these saturates a line, and one in flight costs little memory."""

MAX_UPLOADS: Final = 64
"""Streams at once; more would only slow each other down."""


class Uploads:
    """The staging folder's uploads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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

        Chunks go to the page cache from the loop: a write of a MiB takes less than a hop to a thread.
        """
        lease_id, path = LeaseId(header.lease_id), self._path(LeaseId(header.lease_id), header.sha256)
        with self._alone(lease_id):
            self.forget(lease_id, keep=path)
            with storage_errors(path), path.open("ab") as file:
                if file.tell() != header.offset:
                    raise Refused(
                        Refusal.REFUSAL_WRONG_OFFSET, f"offset = {header.offset}, but {file.tell()} bytes are here"
                    )
                async for request in requests:
                    chunk = request.chunk
                    if not 1 <= len(chunk) <= max_chunk_bytes:
                        raise Refused(Refusal.REFUSAL_MALFORMED, f"a chunk must have 1 to {max_chunk_bytes} bytes")
                    if file.tell() + len(chunk) > header.size_bytes:
                        raise Refused(Refusal.REFUSAL_WRONG_SIZE, "more bytes than size_bytes announced")
                    file.write(chunk)
                if file.tell() < header.size_bytes:
                    raise Refused(Refusal.REFUSAL_WRONG_OFFSET, "the stream ended early: ask SubmitOffset and go on")
            yield path

    def forget(self, lease_id: LeaseId, keep: Path | None = None) -> None:
        """Delete what has come in for a lease, but for `keep`."""
        for path in self._folder.glob(f"upload-{lease_id}-*.part"):
            if path != keep:
                path.unlink(missing_ok=True)

    def forget_all_but(self, lease_ids: set[LeaseId]) -> None:
        """Delete the uploads of leases that cannot count any more."""
        for path in self._folder.glob("upload-*.part"):
            if LeaseId(int(path.name.split("-")[1])) not in lease_ids | self._writing:
                path.unlink(missing_ok=True)

    def forget_all_else(self) -> None:
        """Delete what a process that died was staging besides uploads; only before anything is staged."""
        for path in set(self._folder.iterdir()) - set(self._folder.glob("upload-*.part")):
            path.unlink()

    @contextmanager
    def _alone(self, lease_id: LeaseId) -> Iterator[None]:
        if lease_id in self._writing:
            raise Refused(Refusal.REFUSAL_BUSY, f"lease {lease_id} is being handed in by another stream")
        if len(self._writing) >= MAX_UPLOADS:
            raise Refused(Refusal.REFUSAL_BUSY, f"{MAX_UPLOADS} contributions are coming in at once")
        self._writing.add(lease_id)
        try:
            yield
        finally:
            self._writing.discard(lease_id)

    def _path(self, lease_id: LeaseId, sha256: str) -> Path:
        return self._folder / f"upload-{lease_id}-{sha256}.part"
