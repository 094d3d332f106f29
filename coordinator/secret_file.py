"""A small file that only its owner may read, written all or nothing."""

from __future__ import annotations

import os
from pathlib import Path

from diffusion_at_home.errors import storage_errors


def write_secret(path: Path, data: bytes) -> None:
    """Write `path` anew, never readable by others, not even for a moment. Raises `StorageError`."""
    temporary = path.with_name(f"{path.name}.tmp")
    with storage_errors(path):
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def is_private(path: Path) -> bool:
    """Whether nobody but its owner may read it."""
    return not path.stat().st_mode & 0o077
