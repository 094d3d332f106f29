"""Immutable files named by their sha256: shards, updates, snapshots, contributions, the run's specification."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from diffusion_at_home.errors import IntegrityError, storage_errors
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.sync import sync_folder

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """A folder of blobs and a staging folder beside it, on one file system, so that a rename adds a blob."""

    def __init__(self, folder: Path, staging: Path) -> None:
        self.folder = folder
        self.staging = staging
        self._lock = threading.Lock()
        self._arriving: Counter[str] = Counter()
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            staging.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path | None:
        """The blob's file, or None if there is no such blob or that is no sha256."""
        path = self.folder / sha256
        return path if _SHA256.fullmatch(sha256) and path.is_file() else None

    def add_file(self, staged: Path, sha256: str) -> None:
        """Move `staged`, whose digest the caller has checked, in as a blob; durable when it returns."""
        assert _SHA256.fullmatch(sha256)
        with storage_errors(self.folder):
            with staged.open("rb") as file:
                os.fsync(file.fileno())
            staged.replace(self.folder / sha256)
            sync_folder(self.folder)

    def add_bytes(self, data: bytes) -> str:
        """Store `data`; returns its sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        staged = self.staging / f"{sha256}.bytes"
        with storage_errors(staged):
            staged.write_bytes(data)
        self.add_file(staged, sha256)
        return sha256

    def add_copy(self, source: Path, sha256: str) -> None:
        """Store the file `source` by a hard link where the file system allows it, else by copying."""
        staged = self.staging / f"{sha256}.copy"
        with storage_errors(staged):
            staged.unlink(missing_ok=True)
            try:
                staged.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, staged)
        self.add_file(staged, sha256)

    def keep_only(self, names: set[str]) -> int:
        """Delete what nothing refers to: what was stored just before a process died. Returns how many there were."""
        orphans = [path for path in self.folder.iterdir() if path.name not in names]
        for path in orphans:
            path.unlink()
        return len(orphans)

    @contextmanager
    def arriving(self, sha256: str) -> Iterator[None]:
        """Within, the blob is added and named in the ledger: it is not removed, though it may have been there before."""
        with self._lock:
            self._arriving[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._arriving -= Counter({sha256: 1})  # forgets what is at 0

    def remove(self, sha256: str) -> None:
        """Delete a blob unless the same bytes are arriving; whoever reads it now reads on."""
        assert _SHA256.fullmatch(sha256)
        with self._lock:
            if sha256 not in self._arriving:
                (self.folder / sha256).unlink(missing_ok=True)

    def set_aside(self, sha256: str, folder: Path) -> None:
        """Move a damaged blob to `folder`; it is not served any more, and whoever reads it now reads on."""
        assert _SHA256.fullmatch(sha256)
        with storage_errors(folder), suppress(FileNotFoundError):  # it may have been deleted meanwhile
            folder.mkdir(exist_ok=True)
            (self.folder / sha256).replace(folder / sha256)

    def is_sound(self, sha256: str) -> bool:
        """Whether a blob is there and has the digest of its name."""
        try:
            self.check(sha256)
        except IntegrityError:
            return False
        return True

    def check(self, sha256: str) -> None:
        """Read a blob and compare it with its name. Raises `IntegrityError` if it is damaged or not there."""
        path = self.path(sha256)
        try:
            if path is not None and file_sha256(path) == sha256:
                return
            what = "is missing" if path is None else "is damaged"
        except OSError as error:  # or the disk cannot read it
            what = f"cannot be read ({error.strerror})"
        raise IntegrityError(f"blob {sha256} {what} in {self.folder}: restore it from a backup")

    @contextmanager
    def open(self, sha256: str) -> Iterator[memoryview]:
        """The blob's bytes as a memory map. Raises `IntegrityError` if it is not there."""
        path = self.path(sha256)
        if path is None:
            raise IntegrityError(f"blob {sha256} is missing from {self.folder}: restore it from a backup")
        with mapped(path) as view:
            yield view


@contextmanager
def mapped(path: Path) -> Iterator[memoryview]:
    """The bytes of a non-empty file, read only, without reading them."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Unmapped with its last view: a decoder's traceback may hold one longer than the caller's block.
    yield memoryview(data)


def is_sha256(text: str) -> bool:
    """Whether `text` can name a blob."""
    return _SHA256.fullmatch(text) is not None


def read_spec(blobs: BlobStore, sha256: str) -> RunSpec:
    """The run's specification. Raises `IntegrityError`."""
    with blobs.open(sha256) as data:
        spec = RunSpec.from_bytes(bytes(data))
    if spec.sha256 != sha256:
        raise IntegrityError(f"blob {sha256} does not have that digest: restore it from a backup")
    return spec


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: a round maps each of its contributions."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
