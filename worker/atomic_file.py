"""A small file that is either the old one or the new one, whenever the process dies."""

from __future__ import annotations

from pathlib import Path

from diffusion_at_home.errors import storage_errors


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path`, one writer at a time. Raises `StorageError`."""
    temporary = path.with_name(f"{path.name}.tmp")
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
