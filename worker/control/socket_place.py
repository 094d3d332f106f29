"""Where the local socket lies: `control/socket` in the state folder, for its owner alone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusion_at_home.errors import storage_errors

_NAME = "socket"


def listening(folder: Path) -> socket.socket:
    """A socket that listens in `folder`, in the place of one that a dead process left. Raises `StorageError`.

    The folder (0700) keeps others out before the socket has its own mode (0600).
    """
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / _NAME).unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(folder) as name:
                made.bind(name)
            (folder / _NAME).chmod(0o600)
            made.listen()
        except BaseException:
            made.close()
            raise
    return made


def connected(folder: Path, timeout_seconds: float) -> socket.socket:
    """A connection to the worker that listens in `folder`. Raises `OSError` if none does."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(timeout_seconds)
    try:
        with _short(folder) as name:
            made.connect(name)
    except BaseException:
        made.close()
        raise
    return made


def remove(folder: Path) -> None:
    """Take the socket away."""
    (folder / _NAME).unlink(missing_ok=True)


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A name of the socket that fits into an address, which holds some hundred bytes: by a descriptor, where there are such."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        yield str(folder / _NAME)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{descriptors / str(descriptor)}/{_NAME}"
    finally:
        os.close(descriptor)
