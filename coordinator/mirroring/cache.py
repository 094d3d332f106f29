"""A mirror's files: blobs by their sha256 within a bound, of which the longest unused goes first; one process at a time.

What is here was compared with its name when it came, and is again before it is first served after a start.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from coordinator.blobs import file_sha256
from diffusion_at_home.errors import ConfigError, StorageError, storage_errors
from diffusion_at_home.sync import sync_folder

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PART: Final = ".part"


class MirrorCache:
    """Within `with cache.locked()`; on one loop."""

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self.folder = folder
        self._quota_bytes = quota_bytes
        self._sizes: dict[str, int] = {}
        """The longest unused first."""
        self._coming: dict[str, int] = {}
        self._checked: set[str] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder alone, and find what is in it. Raises `ConfigError` if another process does, `StorageError`."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise ConfigError(f"another mirror uses {self.folder}: stop it, or name another folder") from None
            try:
                self._find()
                yield
            finally:
                lock.release()

    @property
    def num_blobs(self) -> int:
        """That are here."""
        return len(self._sizes)

    @property
    def size_bytes(self) -> int:
        """Of them all."""
        return sum(self._sizes.values())

    async def path(self, sha256: str) -> Path | None:
        """A sound blob's file, None if it is not here; it counts as used now."""
        size_bytes = self._sizes.pop(sha256, None)
        if size_bytes is None:
            return None
        self._sizes[sha256] = size_bytes
        path = self.folder / sha256
        if sha256 not in self._checked:
            if not await asyncio.to_thread(_is_sound, path, sha256):
                self._sizes.pop(sha256, None)
                return None
            self._checked.add(sha256)
        try:
            os.utime(path)
        except OSError:
            self._sizes.pop(sha256, None)
            return None
        return path

    def part(self, sha256: str) -> Path:
        """Where it is while it comes."""
        return self.folder / f"{sha256}{_PART}"

    def expect(self, sha256: str, size_bytes: int) -> None:
        """Make room for a blob that comes. Raises `StorageError` if it does not fit."""
        taken = size_bytes + sum(self._coming.values())
        if taken > self._quota_bytes:
            raise StorageError(f"{size_bytes} bytes do not fit within this mirror's bound now: raise --disk-gb")
        for name in list(self._sizes):
            if taken + self.size_bytes <= self._quota_bytes:
                break
            (self.folder / name).unlink(missing_ok=True)
            self._sizes.pop(name)
        self._coming[sha256] = size_bytes

    def has_come(self, sha256: str) -> None:
        """Its part is whole and sound: keep it. Raises `StorageError`."""
        part = self.part(sha256)
        with storage_errors(part):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.folder / sha256)
            sync_folder(self.folder)
        self._sizes[sha256] = self._coming.pop(sha256)
        self._checked.add(sha256)

    def comes_no_more(self, sha256: str) -> None:
        """It was broken off, or is not what it should be; nothing if it has come."""
        self._coming.pop(sha256, None)
        self.part(sha256).unlink(missing_ok=True)

    def _find(self) -> None:
        found: list[tuple[int, str, int]] = []
        for path in self.folder.iterdir():
            if path.name.endswith(_PART):
                path.unlink()
            elif _SHA256.fullmatch(path.name):
                facts = path.stat()
                found.append((facts.st_mtime_ns, path.name, facts.st_size))
        self._sizes = {name: size for _, name, size in sorted(found)}


def _is_sound(path: Path, sha256: str) -> bool:
    try:
        if file_sha256(path) == sha256:
            return True
        path.unlink(missing_ok=True)
    except OSError:
        pass
    return False
