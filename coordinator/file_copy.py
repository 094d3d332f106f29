"""Copies a file by what its bytes are, not by what the disk says they are: hashed on the way, durable, all or nothing."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from coordinator.parts import Gone, damaged
from diffusion_at_home.errors import IntegrityError, StorageError, storage_errors
from diffusion_at_home.sync import sync_folder

_CHUNK_BYTES: Final = 1 << 20


def copy_file(source: Path, target: Path, *, scratch: Path, sha256: str | None = None) -> str:
    """Copy `source` to `target` by way of `scratch`, on one file system with it; returns the sha256 (hex).

    What is deleted meanwhile is copied to its end. The name is durable after `sync_tree`. Raises `Gone`, `StorageError`,
    and `IntegrityError` if `source` cannot be read or is not what `sha256` says; then `target` is as it was.
    """
    try:
        reading = source.open("rb")
    except FileNotFoundError:
        raise Gone(source) from None
    except PermissionError as error:
        raise StorageError(f"{source} cannot be read ({error.strerror}): be the user who owns it") from error
    digest = hashlib.sha256()
    with reading, storage_errors(target):
        with scratch.open("wb") as writing:
            os.fchmod(writing.fileno(), stat.S_IMODE(os.fstat(reading.fileno()).st_mode))  # a key stays its owner's
            for chunk in _chunks(reading, source):
                digest.update(chunk)
                writing.write(chunk)
            writing.flush()
            os.fsync(writing.fileno())
        if sha256 is not None and digest.hexdigest() != sha256:
            scratch.unlink()
            raise damaged(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.replace(target)
    return digest.hexdigest()


def sync_tree(root: Path) -> None:
    """Make every name below `root` durable."""
    with storage_errors(root):
        for folder, _, _ in os.walk(root):
            sync_folder(Path(folder))


def _chunks(file: BinaryIO, source: Path) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise IntegrityError(f"{source} cannot be read ({error.strerror}): restore it from a backup") from error
