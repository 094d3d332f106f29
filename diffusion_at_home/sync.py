"""Makes files and their names survive a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from diffusion_at_home.errors import storage_errors


def sync_folder(folder: Path) -> None:
    """Make what was made, renamed or deleted in `folder` durable. Raises `StorageError`."""
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Make all files below `folder` durable, what is in them and their names. Raises `StorageError`."""
    with storage_errors(folder):
        for place, _, names in os.walk(folder):
            for name in names:
                with (Path(place) / name).open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(Path(place))
